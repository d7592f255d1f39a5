"""How pytest runs these notebooks, with --nbval or --nbval-lax: the one place for nbval's settings."""

collect_ignore = ["source"]


def pytest_configure(config):
    config.option.nbval_current_env = True  # a notebook saved elsewhere may name a kernel that is not here
    config.option.nbval_cell_timeout = 600  # seconds; nbval waits 2,000 for a kernel that is gone


def pytest_collectstart(collector):
    if hasattr(collector, "skip_compare"):
        collector.skip_compare += ("stderr",)


def pytest_collection_modifyitems(items):
    for item in items:
        item.output_timeout = 60  # seconds; nbval's 5 are too few on a busy machine
