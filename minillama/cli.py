"""python -m minillama: fetch the corpus, train, write, and see what a model costs."""

import argparse
import dataclasses
import importlib.metadata
import math
import os
import platform
import shutil
import sys
from pathlib import Path
from typing import Any

from minillama import __version__
from minillama.recipe import CHOICES, RECIPES, Recipe, find_recipe

DEFAULT_RECIPE = "shakespeare-quick"


def main(arguments: list[str] | None = None) -> int:
    """Run one command. -> exit code: 0 done, 1 the user can mend it, 2 the command line is wrong, 130 Ctrl-C."""
    options = build_parser().parse_args(arguments)
    try:
        options.command(options)
        return 0
    except KeyboardInterrupt:
        print("\nstopped", file=sys.stderr)
        return 130
    except BrokenPipeError:  # `| head` has read enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except (ValueError, TypeError, OSError) as error:
        if options.traceback:
            raise
        print(f"error: {error or type(error).__name__}", file=sys.stderr)
        return 1


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m minillama",
        description="Build, train and run a small LLaMA.",
        epilog="Each command explains itself: python -m minillama train --help",
    )
    parser.add_argument("--version", action="version", version=f"minillama {__version__}")
    parser.add_argument("--traceback", action="store_true", help="show where in the code an error comes from")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")

    data = commands.add_parser("data", help="fetch a data set", description="Fetch a data set, or list them.")
    data.add_argument("name", nargs="?", help="which one; without it, all are listed")
    data.set_defaults(command=run_data)

    train = commands.add_parser(
        "train",
        help="train a model",
        description=_recipes_help(),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    train.add_argument("recipe", nargs="?", default=DEFAULT_RECIPE, help=f"default: {DEFAULT_RECIPE}")
    train.add_argument("--text", type=Path, help="train on this text file (UTF-8) instead of TinyShakespeare")
    train.add_argument("--out", type=Path, help="folder of the run (default: runs/RECIPE); an unfinished run goes on")
    train.add_argument("--fresh", action="store_true", help="start anew; an earlier run in the folder is set aside")
    train.add_argument("--weights-only-resume", action="store_true", help="go on without the optimizers' state")
    _add_device(train)
    changes = train.add_argument_group("changes to the recipe")
    for field in dataclasses.fields(Recipe):
        if field.name not in ("name", "about"):
            _add_recipe_flag(changes, field)
    train.set_defaults(command=run_train)

    sample = commands.add_parser("sample", help="let a trained model write", description="Let a trained model write.")
    sample.add_argument("checkpoint", nargs="?", type=Path, help="a run's folder, or one checkpoint (default: newest)")
    sample.add_argument("--prompt", default="\n", help="text to begin with (default: a line feed)")
    sample.add_argument("--tokens", type=int, default=500, metavar="N", help="how many to write (default: 500)")
    _add_sampler(sample, temperature=0.8)
    sample.add_argument("--stop", help="end when this character has been written")
    sample.add_argument("--seed", type=int, help="the same seed writes the same text again")
    _add_device(sample)
    sample.set_defaults(command=run_sample)

    chat = commands.add_parser(
        "chat",
        help="talk with a chat model",
        description="Talk with a chat model; without a CHECKPOINT, with SmolLM2, which is fetched if need be (93 MB).",
    )
    chat.add_argument("checkpoint", nargs="?", default="smollm2", help="a Hugging Face or Meta folder, or a .gguf file")
    chat.add_argument("--prompt", help="ask this, print the answer, and end")
    chat.add_argument("--system", help="instructions that go before everything")
    chat.add_argument("--template", help="chatml, llama-2, llama-3 (default: the checkpoint's own)")
    chat.add_argument("--tokens", type=int, default=200, metavar="N", help="at most so many per answer (default: 200)")
    _add_sampler(chat, temperature=0.0)
    chat.add_argument("--seed", type=int, help="the same seed answers the same again")
    chat.add_argument("--parts", choices=("mine",), help="run it on the parts that you wrote in the course")
    chat.add_argument("--dtype", choices=("float32", "bfloat16"), help="of the weights (default: as they are)")
    chat.add_argument(
        "--fast", nargs="?", const="int4", choices=("int4", "int8", "bfloat16", "float32"),
        help="pack the weights (default: int4) and compile a block: some seconds to begin with, then faster",
    )  # fmt: skip
    _add_device(chat)
    chat.set_defaults(command=run_chat)

    evaluate = commands.add_parser("evaluate", help="measure a trained model's validation loss again")
    evaluate.add_argument(
        "checkpoint", nargs="?", type=Path, help="a run's folder, or one checkpoint (default: newest)"
    )
    evaluate.add_argument("--text", type=Path, help="the text it was trained on (default: TinyShakespeare)")
    _add_device(evaluate)
    evaluate.set_defaults(command=run_evaluate)

    certify = commands.add_parser("certify", help="prove what a falling loss does not: no look into the future, ...")
    certify.add_argument("checkpoint", nargs="?", type=Path, help="a run's folder, or one checkpoint (default: newest)")
    _add_device(certify)
    certify.set_defaults(command=run_certify)

    pack = commands.add_parser("pack", help="make a run small enough to ship: bfloat16, measured, certified")
    pack.add_argument("run", type=Path, help="a run's folder")
    pack.add_argument("folder", type=Path, help="where to write it")
    pack.add_argument("--text", type=Path, help="the text it was trained on (default: TinyShakespeare)")
    pack.set_defaults(command=run_pack)

    export = commands.add_parser("export", help="write a model for other programs: Transformers, llama.cpp")
    export.add_argument("checkpoint", nargs="?", help="a checkpoint of any format (default: the newest run)")
    export.add_argument("path", type=Path, help="what to write: a folder, or a file that ends in .gguf")
    export.add_argument("--format", choices=("huggingface", "gguf"), help="default: gguf for .gguf, else huggingface")
    export.add_argument(
        "--dtype", choices=("float32", "float16", "bfloat16"), help="of the weights (default: as it is)"
    )
    export.set_defaults(command=run_export)

    info = commands.add_parser("info", help="what a model costs: parameters, operations, memory")
    info.add_argument(
        "name", nargs="?", help="a preset, a recipe, or a checkpoint of any format; without it, all presets are listed"
    )
    info.add_argument("--length", type=int, metavar="N", help="tokens in the text (default: all the model can)")
    info.add_argument("--dtype", choices=("float32", "bfloat16"), help="of weights and cache (default: the file's)")
    info.add_argument("--device", default="auto", help="would it fit there? cpu, cuda, mps (default: the fastest)")
    info.set_defaults(command=run_info)

    doctor = commands.add_parser("doctor", help="what this machine has, and what is missing")
    doctor.set_defaults(command=run_doctor)

    progress = commands.add_parser("progress", help="your way through the course: passed, tried, open")
    progress.set_defaults(command=run_progress)

    build = commands.add_parser("build", help="make the course's notebooks from their sources")
    build.add_argument("chapter", nargs="?", help="its number, such as 07 (default: all whose sources changed)")
    build.add_argument("--check", action="store_true", help="only say what is not current; nothing is run or written")
    build.add_argument("--force", action="store_true", help="run again, and overwrite what was edited by hand")
    build.set_defaults(command=run_build)
    _add_classroom(commands)
    return parser


def _add_classroom(commands):
    release = commands.add_parser(
        "release",
        help="hand out chapters to a class",
        description="Write what students get (students.zip) and what their teacher keeps (teacher/).",
    )
    release.add_argument("--chapters", required=True, help="their numbers, such as 03,07")
    release.add_argument("--out", type=Path, required=True, help="a new folder")
    release.add_argument("--due", default="", help="date and time, such as 2027-01-15T23:59")
    release.add_argument("--points", action="append", default=[], metavar="ID=N", help="other points than the course's")
    release.add_argument(
        "--forbid", action="append", default=[], metavar="ID=NAMES",
        help="functions of torch that an exercise must do without, such as 07.3=F.rms_norm,RMSNorm",
    )  # fmt: skip
    release.add_argument("--all-or-none", action="store_true", help="no points for an exercise that passes in part")
    release.set_defaults(command=_of_the_classroom("release"))

    check = commands.add_parser("check", help="hear what the grader will say of your own notebook")
    check.add_argument("notebook", type=Path)
    check.set_defaults(command=_of_the_classroom("check"))

    grade = commands.add_parser(
        "grade",
        help="grade the notebooks of a class",
        description="Grade what a class handed in. What is graded already is kept: the same command goes on.",
    )
    grade.add_argument(
        "folder", type=Path, help="a notebook or a folder per student, or a learning platform's zip file"
    )
    grade.add_argument("--out", type=Path, required=True, help="a folder for results, tables, pages")
    grade.add_argument("--release", type=Path, help="the teacher/ folder of the release (default: whole chapters)")
    grade.add_argument("--jobs", type=int, default=1, help="so many notebooks at the same time (default: 1)")
    grade.add_argument("--engine", choices=("workers", "nbval"), default="workers", help="nbval: slow, for comparison")
    grade.add_argument("--seconds", type=int, default=20, help="of computing for one exercise (default: 20)")
    grade.add_argument("--nonce", default="", help="draw the inputs of an earlier grading again (its nonce.txt)")
    grade.set_defaults(command=_of_the_classroom("grade"))


def _recipes_help() -> str:
    lines = [f"  {recipe.name:<20} {recipe.about}" for recipe in RECIPES.values()]
    return "\n".join(["Train a model by a recipe:", "", *lines])


def _add_device(parser: argparse.ArgumentParser):
    parser.add_argument("--device", default="auto", help="cpu, cuda, mps (default: the fastest there is)")
    parser.add_argument("--threads", type=int, help="CPU threads (default: torch's choice)")


def _add_sampler(parser, temperature: float):
    parser.add_argument(
        "--temperature", type=float, default=temperature, help=f"0: always the likeliest (default: {temperature:g})"
    )
    parser.add_argument("--top-k", type=int, help="only the K likeliest")
    parser.add_argument("--top-p", type=float, help="only the likeliest that together reach P")
    parser.add_argument("--min-p", type=float, help="only those at least P times as likely as the likeliest")
    parser.add_argument("--repetition-penalty", type=float, default=1.0, help="above 1: repeat less (default: 1)")


def _sampler(options) -> dict[str, Any]:
    names = ("temperature", "top_k", "top_p", "min_p", "repetition_penalty")
    return {name: getattr(options, name) for name in names}


def _add_recipe_flag(group, field: dataclasses.Field):
    flag = "--" + field.name.replace("_", "-")
    if field.type is bool:
        group.add_argument(flag, action=argparse.BooleanOptionalAction)
    elif field.name in CHOICES:
        group.add_argument(flag, choices=CHOICES[field.name])
    elif field.type is str:
        group.add_argument(flag, metavar="NAME", help="char, or such as bpe-1024 (byte pairs, so many tokens)")
    elif "float" in str(field.type):
        group.add_argument(flag, type=float, metavar="X")
    else:
        group.add_argument(flag, type=int, metavar="N")


def run_data(options):
    """Fetch one data set, or list them."""
    from minillama import assets

    if options.name is not None:
        print(assets.fetch(options.name))
        return
    for asset in assets.ASSETS.values():
        state = "here" if not asset.fault(assets.data_dir() / asset.filename) else "not fetched"
        print(f"{asset.name:<18} {asset.size / 1e6:6.1f} MB  {state:<12} {asset.licence:<15} {asset.about}")


def run_train(options):
    """Train, then let the model write."""
    import torch

    from minillama.distributed import Processes
    from minillama.generate import sample_text
    from minillama.loop import train

    _set_threads(options)
    recipe = find_recipe(options.recipe)
    changes = {f.name: getattr(options, f.name, None) for f in dataclasses.fields(Recipe)}
    recipe = recipe.but(**{name: value for name, value in changes.items() if value is not None})
    out = options.out or Path("runs") / recipe.name
    if options.fresh and out.exists() and Processes.here().is_first:
        print(f"{out}: the run that was there is now {set_aside(out)}")
    text = None if options.text is None else read_text(options.text)
    run = train(
        recipe, text, out=out, device=options.device, weights_only_resume=options.weights_only_resume,
        progress=sys.stderr.isatty(),
    )  # fmt: skip
    if not run.finished or not Processes.here().is_first:
        return
    loss, unit = run.validation_loss, "character" if run.recipe.tokenizer == "char" else "token"
    print(
        f"\n{out}: {run.model.n_parameters:,} parameters, {run.step:,} steps, "
        f"{run.metrics[-1]['seconds']:,.0f} s with {torch.get_num_threads()} threads\n"
        f"validation loss {loss:.4f} nats per {unit} on all of the last tenth of the text "
        f"({run.bits_per_character:.3f} bits per character; as unsure as among {math.exp(loss):.2f} {unit}s)\n"
    )
    print(sample_text(run.model, run.tokenizer, n_new=400, seed=0))
    print(f"\nMore: python -m minillama sample {out}")


def set_aside(folder: Path) -> Path:
    """Rename a folder to a name that is free, and return that."""
    aside = next(p for n in range(1, 10**6) if not (p := folder.with_name(f"{folder.name}.old-{n}")).exists())
    return folder.rename(aside)


def read_text(path: Path) -> str:
    """A UTF-8 text file. Errors: ValueError, OSError that name the file."""
    try:
        return path.read_bytes().decode("utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: byte {error.start} is not UTF-8; save the file as UTF-8 text") from None


def run_sample(options):
    """Write text, token by token, until it is enough or Ctrl-C."""
    import torch

    from minillama.devices import pick_device
    from minillama.generate import stream
    from minillama.tokenizer import TextStream

    _set_threads(options)
    if options.tokens < 1:
        raise ValueError(f"--tokens {options.tokens}; expected at least 1")
    checkpoint = open_own(options.checkpoint or newest_run())
    model, tokenizer = checkpoint.model.to(pick_device(options.device)), checkpoint.tokenizer
    device = next(model.parameters()).device
    generator = torch.Generator(device)
    generator.manual_seed(options.seed) if options.seed is not None else generator.seed()
    tokens = torch.tensor([tokenizer.encode(options.prompt)], dtype=torch.long, device=device)
    if options.stop is not None and (len(options.stop) != 1 or not tokenizer.encode(options.stop)):
        raise ValueError(f"--stop {options.stop!r}; expected one character")
    text = TextStream(tokenizer)
    print(options.prompt, end="", flush=True)
    for new in stream(model, tokens, options.tokens, generator=generator, **_sampler(options)):
        said = text.add(int(new))
        print(said, end="", flush=True)
        if options.stop is not None and options.stop in said:
            break
    print(text.end())


def run_chat(options):
    """Talk with a checkpoint, line by line, or answer one question."""
    from dataclasses import replace

    import torch

    from minillama import assets, talk
    from minillama.chat import TEMPLATES, Chat
    from minillama.checkpoints import load
    from minillama.course.keep import my_parts
    from minillama.devices import pick_device
    from minillama.fast import FastLlama

    _set_threads(options)
    if options.template not in (None, *TEMPLATES):
        raise ValueError(f"--template {options.template!r}; expected one of {', '.join(TEMPLATES)}")
    asset = assets.ASSETS.get(options.checkpoint)
    if asset is not None and not Path(options.checkpoint).exists():
        if not (assets.data_dir() / asset.filename).exists():  # fetch looks whether it is the right one
            _to_stderr(f"{asset.name} is not here yet: fetching {asset.about} ({asset.licence})")
        options.checkpoint = assets.fetch(asset.name, report=_to_stderr)
    loaded = load(
        options.checkpoint,
        parts=None if options.parts is None else my_parts(_to_stderr),
        dtype=None if options.dtype is None else getattr(torch, options.dtype),
        device=pick_device(options.device),
    )
    for note in loaded.notes:
        _to_stderr(note)
    if options.fast is not None:
        loaded = replace(loaded, model=FastLlama(loaded.model, options.fast))
    chat = Chat(
        loaded, template=options.template, system=options.system, max_tokens=options.tokens, seed=options.seed,
        report=_to_stderr, **_sampler(options),
    )  # fmt: skip
    if options.prompt is None:
        talk.talk(chat)
    else:
        talk.answer(chat, options.prompt)


def open_own(path: Path):
    """A checkpoint that this package trained. Errors: ValueError for anybody else's that says what opens it."""
    from minillama.assets import ASSETS
    from minillama.checkpoints import is_foreign
    from minillama.saving import open_checkpoint

    if is_foreign(path) or (str(path) in ASSETS and not path.exists()):
        raise ValueError(
            f"{path}: not a run of this package, expected its folder; what opens other models: "
            f"python -m minillama chat {path}, and in Python minillama.checkpoints.load({str(path)!r})"
        )
    return open_checkpoint(path, report=_to_stderr)


def newest_run() -> Path:
    """The run that was written to last, or else the model that ships with the repository.

    Errors: FileNotFoundError that says how to make one.
    """
    from minillama.assets import shipped_model

    runs = [folder.parent for folder in Path("runs").glob("*/step-*")]
    if runs:
        return max(runs, key=lambda run: run.stat().st_mtime)
    try:
        return shipped_model()
    except FileNotFoundError:
        raise FileNotFoundError("runs: no trained model here; train one with: python -m minillama train") from None


def run_evaluate(options):
    """Measure the validation loss, and say whether it is the one that is stored. Exit code 1 if it is not."""
    from minillama.devices import pick_device
    from minillama.pack import validation_loss

    _set_threads(options)
    checkpoint = open_own(options.checkpoint or newest_run())
    checkpoint.model.to(pick_device(options.device))
    loss, stored = validation_loss(checkpoint, text_of(options)), checkpoint.training["validation_loss"]
    print(f"{checkpoint.folder}: validation loss {loss:.4f} nats per token, measured now")
    if stored is None or abs(loss - stored) > 1e-3:
        raise ValueError(f"{checkpoint.folder / 'training.json'}: validation_loss {stored}, measured now {loss:.4f}")
    print(f"stored with it: {stored:.4f}, the same")


def run_certify(options):
    """Print the certificate. Exit code 1 if a property fails."""
    from minillama.certify import certify
    from minillama.devices import pick_device

    _set_threads(options)
    checkpoint = open_own(options.checkpoint or newest_run())
    checkpoint.model.to(pick_device(options.device))
    certificate = certify(checkpoint.model)
    print(f"{checkpoint.folder}\n{certificate}")
    if not certificate.passed:
        raise ValueError(f"{checkpoint.folder}: not certified: {', '.join(certificate.failed)}")


def run_pack(options):
    """Write a run in its small form."""
    from minillama.pack import pack
    from minillama.saving import newest_checkpoint, read_json

    newest = newest_checkpoint(options.run)
    if newest is None:
        raise FileNotFoundError(f"{options.run}: no checkpoint here; give the folder of a run")
    recipe = read_json(newest / "training.json")["identity"]["recipe"]
    command = "python -m minillama train " + recipe["name"]
    if recipe["name"] in RECIPES:
        for field in dataclasses.fields(Recipe):
            flag, value = field.name.replace("_", "-"), recipe[field.name]
            if value != getattr(RECIPES[recipe["name"]], field.name):
                command += f" --{'' if value else 'no-'}{flag}" if isinstance(value, bool) else f" --{flag} {value}"
    packed = pack(options.run, options.folder, text_of(options), command)
    size = sum(file.stat().st_size for file in packed.folder.iterdir())
    print(f"{packed.folder}: {size / 1e6:.2f} MB, validation loss {packed.training['validation_loss']:.4f}, certified")


def text_of(options) -> str:
    """The text of --text, or TinyShakespeare."""
    from minillama.assets import corpus

    return corpus(report=_to_stderr) if options.text is None else read_text(options.text)


def run_info(options):
    """Print what a preset, a recipe or a checkpoint costs, and whether it fits into memory here."""
    from minillama.config import PRESETS, Config
    from minillama.devices import free_memory, pick_device
    from minillama.info import costs, quantity
    from minillama.saving import newest_checkpoint, read_json

    if options.name is None:
        print(f"{'preset':<16} {'parameters':>16}  layers  d_model  heads  kv heads    d_ff  vocabulary  max_len")
        for name, config in PRESETS.items():
            c = config
            print(
                f"{name:<16} {costs(config).n_parameters:>16,}  {c.n_layers:>6}  {c.d_model:>7}  {c.n_heads:>5}  "
                f"{c.n_kv_heads:>8}  {c.d_ff:>6}  {c.vocab_size:>10}  {c.max_len:>7}"
            )
        return
    dtype = "bfloat16"
    if options.name in PRESETS:
        config = PRESETS[options.name]
    elif options.name in RECIPES:
        config = RECIPES[options.name].config(vocab_size=65)
    elif (opened := _headers(options.name)) is not None:
        config, dtype = opened.config, str(opened.dtype).removeprefix("torch.")
        print(f"{opened.path}: {opened.format}", *opened.notes, sep="\n")
    elif Path(options.name).is_dir():
        folder = newest_checkpoint(Path(options.name))
        if folder is None:
            raise FileNotFoundError(f"{options.name}: no checkpoint in this folder")
        config = Config.from_dict(read_json(folder / "config.json")["config"], f"{folder / 'config.json'}: ")
    else:
        names = ", ".join([*PRESETS, *RECIPES])
        raise ValueError(
            f"{options.name!r} is no file or folder, preset, recipe or asset; presets and recipes: {names}"
        )
    dtype = options.dtype or dtype
    n_bytes = 4 if dtype == "float32" else 2
    length = config.max_len if options.length is None else options.length
    if not 1 <= length <= 2**24:
        raise ValueError(f"--length {length}; expected 1 to {2**24}")
    cost = costs(config, length, n_bytes)
    for field, value in config.to_dict().items():
        print(f"{field:<24} {value}")
    print(f"{'parameters':<24} {cost.n_parameters:,}  ({cost.n_embedding:,} of them in embedding and output)")
    print(f"{'operations per token':<24} {quantity(cost.flops_per_token, 'FLOP')} at token {length:,}")
    print(f"{'the same, training':<24} {quantity(cost.training_flops_per_token, 'FLOP')}, windows of {length:,}")
    print(f"{'memory, weights':<24} {quantity(cost.weights_bytes, 'B')} in {dtype}")
    per_token = quantity(cost.cache_bytes_per_token, "B")
    print(f"{'memory, KV cache':<24} {quantity(cost.cache_bytes, 'B')} for {length:,} tokens ({per_token} each)")
    print(f"{'memory, training':<24} {quantity(cost.training_bytes, 'B')} and activations, float32 with AdamW")
    device = pick_device(options.device)
    needed, free = cost.weights_bytes + cost.cache_bytes, free_memory(device)
    if free is not None:
        hint = "; try a smaller --length" + (", or --dtype bfloat16" if n_bytes == 4 else "")
        hint = hint if needed > free else ""
        print(
            f"{'fits here':<24} {'no' if hint else 'yes'}: {quantity(needed, 'B')} of weights and cache, "
            f"{quantity(free, 'B')} free on {device}{hint}"
        )


def _headers(name: str):
    """What the headers of a checkpoint of somebody else's say; None if there is none of this name."""
    from minillama import assets
    from minillama.checkpoints import inspect, is_foreign

    path = Path(name)
    if not path.exists() and name in assets.ASSETS:
        path = assets.data_dir() / assets.ASSETS[name].filename
        if not path.exists():
            raise FileNotFoundError(f"{path}: not fetched yet; python -m minillama data {name}")
    return inspect(path) if is_foreign(path) else None


def run_export(options):
    """Write a checkpoint for Transformers or llama.cpp."""
    import torch

    from minillama.assets import ASSETS
    from minillama.checkpoints import load
    from minillama.checkpoints.export import export

    if options.checkpoint is None and str(options.path) in ASSETS:
        raise ValueError(f"{options.path}: is read, not written; add a name for what to write, such as my-model.gguf")
    loaded = load(options.checkpoint or newest_run())
    for note in loaded.notes:
        _to_stderr(note)
    if loaded.tokenizer is None:
        _to_stderr(f"without a tokenizer: {loaded.no_tokenizer}")
    format = options.format or ("gguf" if options.path.suffix == ".gguf" else "huggingface")
    dtype = None if options.dtype is None else getattr(torch, options.dtype)
    export(
        loaded.model, loaded.tokenizer, options.path, format, dtype=dtype, chat_template=loaded.chat_template,
        stop_tokens=loaded.stop_tokens,
    )  # fmt: skip
    files = [options.path] if options.path.is_file() else sorted(options.path.iterdir())
    size = sum(file.stat().st_size for file in files) / 1e6
    print(f"{options.path}: {size:,.1f} MB, {', '.join(file.name for file in files)}; made from {loaded.source}")


def run_doctor(options):
    """Print versions, device, cores, and how to get what is missing."""
    import torch

    from minillama import assets, devices

    print(f"{'minillama':<16} {__version__}   ({os.path.relpath(Path(__file__).parent)})")
    print(f"{'python':<16} {platform.python_version()}   {platform.system()} {platform.machine()}")
    for package, what_for in PACKAGES.items():
        try:
            print(f"{package:<16} {importlib.metadata.version(package)}")
        except importlib.metadata.PackageNotFoundError:
            print(f"{package:<16} missing: {what_for}; pip install {package}")
    print(f"{'cores':<16} {os.cpu_count()}, torch uses {torch.get_num_threads()} threads")
    print(f"{'devices':<16} {', '.join(devices.available_devices())}")
    if torch.cuda.is_available():
        print(f"{'GPU':<16} {torch.cuda.get_device_name()}")
    else:
        print(f"{'GPU':<16} none that this torch build can use; see https://pytorch.org/get-started/locally/")
    pays = devices.bf16_pays(devices.pick_device())
    print(f"{'bfloat16':<16} {'faster than float32 here' if pays else 'not faster here: training uses float32'}")
    missing = "none: training runs without torch.compile, somewhat slower; install g++ or clang"
    print(f"{'C++ compiler':<16} {devices.compiler() or missing}")
    for asset in assets.ASSETS.values():
        fault = asset.fault(assets.data_dir() / asset.filename)
        state = "here" if not fault else f"{fault}; python -m minillama data {asset.name}"
        print(f"{asset.name:<16} {state}")
    free = shutil.disk_usage(Path.cwd()).free / 1e9
    print(f"{'disk':<16} {free:.1f} GB free here{'' if free > 1 else '; training needs some megabytes'}")


def run_progress(options):
    """Print a map of the course."""
    from minillama.course import keep

    print(keep.progress())


def run_build(options):
    """Make the notebooks, or say which are not current."""
    from minillama.course import build

    build.main(options)


def _of_the_classroom(name: str):
    def command(options):
        from minillama.classroom import commands

        getattr(commands, name)(options)

    return command


PACKAGES = {
    "torch": "everything",
    "numpy": "torch and matplotlib want it",
    "safetensors": "reads and writes weights",
    "tqdm": "progress bars",
    "matplotlib": "figures",
    "sentencepiece": "tokenizers of chapter 02",
    "regex": "tokenizers of LLaMA 3 and SmolLM2",
    "jinja2": "chat templates",
    "jupyter": "opens the notebooks",
    "jupytext": "reads the notebooks' sources",
    "nbval": "checks the notebooks",
    "pytest": "runs the tests",
    "transformers": "only for tests that compare with Hugging Face",
}


def _set_threads(options):
    import torch

    if options.threads is not None:
        if options.threads < 1:
            raise ValueError(f"--threads {options.threads}; expected at least 1")
        torch.set_num_threads(options.threads)


def _to_stderr(line: str):
    print(line, file=sys.stderr)
