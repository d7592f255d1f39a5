import csv
import hashlib
import html.parser
import io
import os
import re
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt
from matplotlib.colors import to_rgb
from matplotlib.text import Text
from PIL import Image

from minillama.classroom import manual, pages, reports
from minillama.classroom.manual import cell, read_manual
from minillama.classroom.reports import number, safe_name, write_reports
from minillama.classroom.results import OUTCOMES, STATUSES, Graded, Result
from minillama.plots import classroom

EXERCISES = [("07.1", "LayerNorm", 4.0), ("07.2", "RMSNorm", 6.0), ("08.1", "shift", 2.5)]
HARD_NAMES = [
    "=cmd|' /C calc'!A0", "../../etc/passwd", "Zoë Müller", "李明", "<script>alert(1)</script>", "CON", "a/b",
    "x" * 300, "ann lee", "Ann Lee", "half \udcff", "nul\0byte", "", ".", "*b* _i_ [l](http://x) `c` | &amp; # $x$",
    "a\nb", "अनिता",
]  # fmt: skip


def graded(id: str, outcome: str = "right", points: float = 0, **more) -> Graded:
    name, possible = next((name, possible) for known, name, possible in EXERCISES if known == id)
    return Graded(id, name, outcome, points, possible, **more)


def result(student: str, *exercises: Graded, status: str = "ok", chapter: str = "07", **more) -> Result:
    return Result(student, chapter, status, f"{student}.ipynb", exercises=list(exercises), **more)


def table(path: Path) -> list[list[str]]:
    with open(path, newline="", encoding="utf-8-sig") as file:
        return list(csv.reader(file, strict=True))


def rows(path: Path) -> list[dict[str, str]]:
    first, *others = table(path)
    return [dict(zip(first, row, strict=True)) for row in others]


class Reader(html.parser.HTMLParser):
    """What a browser sees: the tags in order, all text, and the text of each <pre>."""

    def __init__(self, text: str):
        super().__init__()
        self.tags, self.text, self.pre, self.inside_pre = [], "", [], False
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.inside_pre |= tag == "pre"
        if tag == "pre":
            self.pre.append("")
        if tag in ("th", "td"):
            self.text += " "

    def handle_endtag(self, tag):
        self.inside_pre &= tag != "pre"

    def handle_data(self, data):
        self.text += data
        if self.inside_pre:
            self.pre[-1] += data


def seen(path: Path) -> list[Reader]:
    """A page in both forms: the HTML, and what CommonMark with tables makes of the Markdown."""
    rendered = MarkdownIt("commonmark").enable("table").render(path.with_name(path.name + ".md").read_text("utf-8"))
    return [Reader(path.with_name(path.name + ".html").read_text("utf-8")), Reader(rendered)]


def page_of(folder: Path, student: str) -> list[Reader]:
    return seen(folder / "feedback" / safe_name(student))


def by_hand(folder: Path, text: str):
    (folder / "manual.csv").write_text(text, encoding="utf-8", newline="")


def test_a_row_for_each_student_with_the_points_of_each_exercise(tmp_path):
    results = [
        result("zoe", graded("07.1", points=4), graded("07.2", "wrong", 1.25)),
        result("zoe", graded("08.1", "not attempted"), chapter="08"),
        result("bob", graded("07.2", points=6), graded("07.1", "timeout")),
        result("bob", graded("08.1", points=2.5), chapter="08"),
    ]
    write_reports(tmp_path, results, EXERCISES)
    assert table(tmp_path / "grades.csv") == [
        "student,status,total,possible,07.1 LayerNorm,07.2 RMSNorm,08.1 shift,comment,flags".split(","),
        ["bob", "ok", "8.5", "12.5", "0", "6", "2.5", "", ""],
        ["zoe", "ok", "5.25", "12.5", "4", "1.25", "0", "", ""],
    ]


def test_excel_and_other_programs_can_open_the_tables(tmp_path):
    write_reports(tmp_path, [result("Zoë", graded("07.1"))], EXERCISES)
    for name in ("grades.csv", "long.csv", "manual.csv"):
        content = (tmp_path / name).read_bytes()
        assert content.startswith(b"\xef\xbb\xbf")
        assert content.endswith(b"\r\n") and content.count(b"\n") == content.count(b"\r\n")


def test_a_missing_exercise_is_an_empty_cell_and_counts_nothing(tmp_path):
    results = [result("ann", graded("07.1", "missing", 9), graded("07.2", "not attempted"))]  # and no chapter 08
    write_reports(tmp_path, results, EXERCISES)
    [row] = rows(tmp_path / "grades.csv")
    assert [row["07.1 LayerNorm"], row["07.2 RMSNorm"], row["08.1 shift"], row["total"]] == ["", "0", "", "0"]
    assert [row["points"] for row in rows(tmp_path / "long.csv")] == ["", "0", ""]


@pytest.mark.parametrize(
    ("statuses", "said"),
    [
        (("ok", "ok"), "ok"),
        (("ok", "timeout"), "timeout (08)"),
        (("needs review", "missing"), "missing (08)"),
        (("crashed", "timeout"), "crashed (07)"),
        (("missing", "missing"), "missing"),
    ],
)
def test_the_status_of_a_student_is_the_worst_one_and_names_its_chapter_if_they_differ(tmp_path, statuses, said):
    results = [result("ann", status=s, chapter=c) for s, c in zip(statuses, ("07", "08"), strict=True)]
    write_reports(tmp_path, results, EXERCISES)
    assert rows(tmp_path / "grades.csv")[0]["status"] == said


def test_all_flags_are_in_the_tables_and_none_on_the_page_of_the_student(tmp_path):
    first = result("ann", graded("07.2", flags=["as bob's", "long"]), flags=["edited checks"])
    write_reports(tmp_path, [first, result("ann", chapter="08", flags=["late"])], EXERCISES)
    assert rows(tmp_path / "grades.csv")[0]["flags"] == "edited checks; late; 07.2: as bob's; 07.2: long"
    assert [row["flags"] for row in rows(tmp_path / "long.csv")] == ["", "as bob's; long", ""]
    for page in page_of(tmp_path, "ann"):
        assert not re.search("bob|long|edited|late", page.text)


def test_the_long_table_has_a_row_for_each_student_and_exercise(tmp_path):
    write_reports(tmp_path, [result("ann", graded("07.2", "wrong", 2, mistake="You forgot eps."))], EXERCISES)
    assert table(tmp_path / "long.csv") == [
        "student chapter file status exercise name outcome points possible mistake flags confined".split(),
        ["ann", "07", "ann.ipynb", "ok", "07.1", "LayerNorm", "missing", "", "4", "", "", ""],
        ["ann", "07", "ann.ipynb", "ok", "07.2", "RMSNorm", "wrong", "2", "6", "You forgot eps.", "", ""],
        ["ann", "08", "", "missing", "08.1", "shift", "missing", "", "2.5", "", "", ""],
    ]


@pytest.mark.parametrize(
    ("x", "text"),
    [
        (6, "6"),
        (6.0, "6"),
        (4.5, "4.5"),
        (2 / 3, "0.67"),
        (0.1 + 0.2, "0.3"),
        (100, "100"),
        (-1.5, "-1.5"),
        (-0.001, "0"),
    ],
)
def test_numbers_have_no_zeros_that_say_nothing(x, text):
    assert number(x) == text


@pytest.mark.parametrize("text", ["=1", "+1", "-1", "@a", "  =1", "\u00a0=1", "\ta", "\ra", "\na", "\0=1", " \0+1"])
def test_no_cell_is_taken_for_a_formula(text):
    assert cell(text) == "'" + text.replace("\0", "")


@pytest.mark.parametrize("text", ["", "a=1", "  a", "'a", "Zoë", '"', "a\r\nb", "1,2;3"])
def test_other_text_stays_as_it_is(text):
    assert cell(text) == text


def test_every_text_of_the_tables_is_guarded_and_no_number_is(tmp_path):
    evil = Result(
        "=s", "07", "ok", "@f", exercises=[graded("07.1", "wrong", -1, mistake="+m", flags=["-g"])], flags=["=f"]
    )
    by_hand(tmp_path, "student,exercise,points,comment\n=s,,,=c\n")
    write_reports(tmp_path, [evil], [("07.1", "LayerNorm", 4.0)])
    assert table(tmp_path / "grades.csv")[1] == ["'=s", "ok", "-1", "4", "-1", "'=c", "'=f; 07.1: -g"]
    row = table(tmp_path / "long.csv")[1]
    assert row == ["'=s", "07", "'@f", "ok", "07.1", "LayerNorm", "wrong", "-1", "4", "'+m", "'-g", ""]


@given(st.text(max_size=20))
def test_text_survives_a_table(text):
    file = io.StringIO(newline="")
    csv.writer(file).writerow(["a", cell(text)])
    again = list(csv.reader(io.StringIO(file.getvalue(), newline=""), strict=True))
    assert again == [["a", cell(text)]] and cell(text).removeprefix("'") == text.replace("\0", "").removeprefix("'")


def test_the_file_for_points_by_hand_is_started_once_and_never_written_again(tmp_path):
    results = [result("ann", graded("07.1", "wrong", 1))]
    write_reports(tmp_path, results, EXERCISES)
    path = tmp_path / "manual.csv"
    assert path.read_bytes() == b"\xef\xbb\xbfstudent,exercise,points,comment\r\n"
    path.write_bytes(b"Student; exercise;points;comment;\nann;07.1;3;good;\n")
    os.utime(path, (1, 1))
    write_reports(tmp_path, results, EXERCISES)
    assert path.read_bytes() == b"Student; exercise;points;comment;\nann;07.1;3;good;\n"
    assert path.stat().st_mtime == 1
    assert rows(tmp_path / "grades.csv")[0]["total"] == "3"


def test_points_by_hand_replace_those_of_an_exercise_everywhere(tmp_path):
    by_hand(tmp_path, "student,exercise,points,comment\nann,07.2,5.5,well argued\nann,08.1,2,\nann,,-1,a day late\n")
    write_reports(tmp_path, [result("ann", graded("07.1", points=4), graded("07.2", "wrong", 1))], EXERCISES)
    [row] = rows(tmp_path / "grades.csv")
    assert [row["07.1 LayerNorm"], row["07.2 RMSNorm"], row["08.1 shift"], row["total"]] == ["4", "5.5", "2", "10.5"]
    assert row["comment"] == "a day late; 07.2: well argued"
    assert [row["points"] for row in rows(tmp_path / "long.csv")] == ["4", "5.5", "2"]
    for page in page_of(tmp_path, "ann"):
        assert "Total: 10.5 of 12.5 points" in page.text
        assert "07.2 RMSNorm: wrong, 5.5 of 6 points, set by your teacher" in page.text
        assert "07.1 LayerNorm: right, 4 of 4 points\n" in page.text
        assert "For the whole submission, set by your teacher: -1 points" in page.text
        assert "Your teacher writes: a day late" in page.text and "Your teacher writes: well argued" in page.text
    for page in seen(tmp_path / "summary"):
        assert re.search(r"07\.2 RMSNorm\s+0\s+1\s+0\s+0\s+92 %", page.text)


def test_a_comment_alone_leaves_the_points(tmp_path):
    by_hand(tmp_path, "student,exercise,points,comment\nann,07.1,,nice\n")
    write_reports(tmp_path, [result("ann", graded("07.1", "wrong", 1))], EXERCISES)
    [row] = rows(tmp_path / "grades.csv")
    assert [row["07.1 LayerNorm"], row["total"], row["comment"]] == ["1", "1", "07.1: nice"]
    assert "set by" not in page_of(tmp_path, "ann")[0].text


@pytest.mark.parametrize(
    "text",
    [
        "student,exercise,points,comment\nann lee,07.2,4.5,so so\n",
        "\ufeffstudent;exercise;points;comment\r\nann lee;07.2;4,5;so so\r\n",
        ' Student , exercise,points , comment,\n\n  "ann lee" , 07.2 RMSNorm, 4.50 , so so ,,\n,,,\n',
        "student,exercise,points,comment\nann lee,07.2,+4.5,so so",
    ],
)
def test_the_ways_in_which_a_spreadsheet_writes_points(tmp_path, text):
    by_hand(tmp_path, text)
    read = read_manual(tmp_path / "manual.csv", ["ann lee", "bob"], EXERCISES)
    assert read == {("ann lee", "07.2"): (4.5, "so so")}


def test_points_by_hand_can_be_read_without_a_class(tmp_path):
    assert read_manual(tmp_path / "manual.csv") == {}
    by_hand(tmp_path, "student,exercise,points,comment\nann,,,hello\nbob,07.1,2\n")
    assert read_manual(tmp_path / "manual.csv") == {("ann", ""): (None, "hello"), ("bob", "07.1"): (2, "")}


def test_a_name_copied_from_the_grades_is_found(tmp_path):
    names = [name for name in HARD_NAMES if name] + ["=x", "=Zoe\u0308"]
    write_reports(tmp_path, [result(name) for name in names], EXERCISES)
    copied = [row["student"] for row in rows(tmp_path / "grades.csv")]
    with open(tmp_path / "manual.csv", "a", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([name, "07.1", i, ""] for i, name in enumerate(copied))
    read = read_manual(tmp_path / "manual.csv", names, EXERCISES)
    assert {student: points for (student, _), (points, _) in read.items()} == dict(
        zip(sorted(names), range(99), strict=False)
    )
    by_hand(tmp_path, "student,exercise,points,comment\n=Zo\u00eb,,1,\n=x,,2,\n")
    assert read_manual(tmp_path / "manual.csv", names) == {("=Zoe\u0308", ""): (1, ""), ("=x", ""): (2, "")}


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        ("bob,07.1,1,\nanm,07.1,1,", "line 3: found the student 'anm', expected a student of the class, such as 'ann'"),
        ("ann,7.2,1,", "line 2: found the exercise '7.2', expected one of 07.1, 07.2, 08.1 or nothing; write"),
        ("ann,07.1,vier,", "line 2: found 'vier' as points, expected a number such as 4.5, or nothing; write"),
        ("ann,07.1,nan,", "line 2: found 'nan' as points"),
        ("ann,07.1,inf,", "line 2: found 'inf' as points"),
        (f"ann,07.1,{'9' * 400},", "line 2: found '999"),
        ("ann,07.1,1_0,", "line 2: found '1_0' as points"),
        ('ann,07.1,1,"a\nb"\nbob,,x,', "line 4: found 'x' as points"),
        ("ann,07.1,1,\nbob,07.1,1,\n ann ,07.1 LayerNorm,,again", "line 4: found a second row for 'ann' and exercise"),
        ("ann,,1,\nann,,2,", "line 3: found a second row for 'ann' and the whole submission, expected one; delete"),
        ("ann,07.1,1,good, but late", "line 2: found 5 cells, expected 4; put a comment that has a , in it"),
        ('ann,07.1,1,"good\nbob,07.1,1,', "line 2: found a cell that can't be read"),
    ],
)  # fmt: skip
def test_a_row_that_cannot_be_meant_is_named_and_nothing_is_written(tmp_path, lines, said):
    by_hand(tmp_path, f"student,exercise,points,comment\n{lines}\n")
    with pytest.raises(ValueError) as error:
        write_reports(tmp_path, [result("ann"), result("bob")], EXERCISES)
    assert str(error.value).startswith(f"{tmp_path / 'manual.csv'}: {said}") and "; " in str(error.value)
    assert os.listdir(tmp_path) == ["manual.csv"]


@pytest.mark.parametrize(
    "text", [b"", b"ann,07.1,1,\n", b"student,points\nann,1\n", b"student,exercise,points,comment,extra\n"]
)
def test_a_file_without_the_right_first_line_is_named(tmp_path, text):
    (tmp_path / "manual.csv").write_bytes(text)
    with pytest.raises(
        ValueError, match=r"manual\.csv: line 1: found .* expected 'student,exercise,points,comment'; write"
    ):
        read_manual(tmp_path / "manual.csv")


def test_a_file_in_another_encoding_is_named(tmp_path):
    (tmp_path / "manual.csv").write_bytes("student,exercise,points,comment\nann,,1,\nZoë,,1,\n".encode("latin-1"))
    with pytest.raises(ValueError, match=r"manual\.csv: line 3: .* expected UTF-8; save the file as 'CSV UTF-8'"):
        read_manual(tmp_path / "manual.csv")


def test_two_students_whose_names_look_alike_must_be_told_apart(tmp_path):
    by_hand(tmp_path, "student,exercise,points,comment\n Zoe\u0308 ,,1,\nZo\u00eb ,,2,\n")
    names = ["Zoe\u0308", "Zo\u00eb"]
    assert len(read_manual(tmp_path / "manual.csv", names)) == 2
    with pytest.raises(ValueError, match="line 2: found 2 students .* expected one student; copy"):
        read_manual(tmp_path / "manual.csv", [f"{name} " for name in names])


def hashed(start: str, name: str) -> str:
    return f"{start}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"


@pytest.mark.parametrize("name", ["ann", "γιάννης", "李明", "zoë", "अनिता", "a-b_c.d", "x" * 60, "ж9"])
def test_a_simple_name_is_the_name_of_the_file(name):
    assert safe_name(name) == name


@pytest.mark.parametrize(
    ("name", "start"),
    [
        ("Ann", "Ann"), ("ann lee", "ann_lee"), ("a/b", "a_b"), ("../../etc/passwd", "_.._etc_passwd"), ("", ""),
        ("..", ""),
        (".bashrc", "bashrc"), ("ann.", "ann"), ("x" * 59 + ".y", "x" * 51), ("ann ", "ann_"), ("x" * 300, "x" * 51),
        ("zoe\u0308", "zoë"), ("straße", "straße"), ("CON", "_CON"), ("con", "_con"), ("nul.txt", "_nul.txt"),
        ("Com1", "_Com1"), ("lpt9.a.b", "_lpt9.a.b"), ("<script>", "_script_"), ("a\0b", "a_b"), ("a\\b:c", "a_b_c"),
        ("ann-1234abcd", "ann-1234abcd"), ("\u202eann", "_ann"), ("😀", "_"), ("com10", None),
        ("com²", "_com²"), ("ı", "ı"), ("ſ", "ſ"),
    ],
)  # fmt: skip
def test_any_other_name_gets_a_hash(name, start):
    assert safe_name(name) == (name if start is None else hashed(start, name))


def test_half_a_character_and_its_number_are_two_names():
    pair = "x" * 60 + "\udcff", "x" * 60 + "\\udcff"
    assert safe_name(pair[0]) != safe_name(pair[1])


NAMES = st.one_of(
    st.text(st.characters(), max_size=80),
    st.text("aAſsSßKkKΣσςİiıI.-_ 1e\u0301é", max_size=4),
    st.sampled_from(HARD_NAMES),
)


@given(NAMES, NAMES)
def test_two_students_never_share_a_file(a, b):
    if a != b:
        for fold in (str, str.casefold, str.lower, str.upper):
            assert fold(safe_name(a)) != fold(safe_name(b))


@given(NAMES)
def test_a_file_name_is_one_on_every_system(name):
    name = safe_name(name)
    assert len(name) <= 60 and len(name.encode()) <= 200  # with its ending, and as a temp file, at most 255
    assert not re.search(r'[\x00-\x1f/\\:*?"<>|]', name) and not name.startswith(".") and not name.endswith((".", " "))
    assert name.partition(".")[0].upper() not in {"CON", "PRN", "AUX", "NUL", "COM1", "LPT9"}


def test_a_name_that_takes_a_lifted_hash_of_a_classmate_is_hashed_as_well():
    assert safe_name(safe_name("Ann").lower()).lower() != safe_name("Ann").lower()


def test_long_names_of_wide_characters_can_be_written(tmp_path):
    write_reports(tmp_path, [result("𠀀" * 300), result("𠀀" * 60)], EXERCISES)
    assert len(list((tmp_path / "feedback").glob("*.html"))) == 2


def test_any_class_gets_its_reports(tmp_path):
    results = [result(name, graded("07.1", "wrong", 1, message=f"about {name}", flags=[name])) for name in HARD_NAMES]
    write_reports(tmp_path, results, EXERCISES, "=1 <b>")
    files = sorted(path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file())
    pages = [f"feedback/{safe_name(name)}{ending}" for name in HARD_NAMES for ending in (".md", ".html")]
    others = ["grades.csv", "long.csv", "manual.csv", "summary.md", "summary.html", "summary.png"]
    assert files == sorted(pages + others) and len(set(map(str.casefold, files))) == len(files)
    assert not (tmp_path.parent / "etc").exists()
    assert [row["student"] for row in rows(tmp_path / "grades.csv")] == [cell(name) for name in sorted(HARD_NAMES)]
    for name in HARD_NAMES:
        expected = " ".join(f"=1 <b>: {name}".replace("\0", "").encode(errors="backslashreplace").decode().split())
        for page in page_of(tmp_path, name):
            assert expected in " ".join(page.text.split())
            assert set(page.tags) <= {"html", "head", "meta", "title", "style", "body", "h1", "h2", "h3", "p", "pre",
                                      "strong", "code"}  # fmt: skip


def test_nothing_is_written_in_place(tmp_path, monkeypatch):
    written, replacing = [], reports.replacing
    for module in (reports, manual):
        monkeypatch.setattr(module, "replacing", lambda path: (written.append(path), replacing(path))[1])
    write_reports(tmp_path, [result("ann")], EXERCISES)
    assert sorted(written) == sorted(path for path in tmp_path.rglob("*") if path.is_file())
    assert len(written) == 8


def test_pages_of_students_who_left_are_left_alone(tmp_path):
    write_reports(tmp_path, [result("ann"), result("bob")], EXERCISES)
    (tmp_path / "feedback" / "bob.md").write_text("mine")
    write_reports(tmp_path, [result("ann")], EXERCISES)
    assert (tmp_path / "feedback" / "bob.md").read_text() == "mine"
    assert (tmp_path / "feedback" / "bob.html").exists()


@pytest.mark.parametrize(
    "message",
    [
        "plain",
        "```\n# not a heading\n```",
        "a ```` b\n`````",
        "</pre><script>alert(1)</script><pre>",
        "    four blanks\n\n\n- no list\n&lt; stays &lt;",
        "~~~\n<b>bold</b>",
        "ends with\r```\rlone returns",
    ],
)
def test_a_message_is_shown_as_it_is(tmp_path, message):
    write_reports(tmp_path, [result("ann", graded("07.1", "wrong", message=message), graded("07.2"))], EXERCISES)
    for page in page_of(tmp_path, "ann"):
        assert [text.rstrip("\n") for text in page.pre] == [message.replace("\r", "\n")]
        assert page.tags.count("h3") == 3  # what comes after is still outside
        assert not {"script", "b", "li"} & set(page.tags)


def test_a_comment_of_several_lines_stays_one_paragraph(tmp_path):
    by_hand(tmp_path, 'student,exercise,points,comment\nann,,,"good\n\n# one\n- two\n---\n\n<b>three"\n')
    write_reports(tmp_path, [result("ann", graded("07.1"))], EXERCISES[:1])
    html_page, from_markdown = page_of(tmp_path, "ann")
    assert "Your teacher writes: good\n\n# one\n- two\n---\n\n<b>three\n" in html_page.text
    assert from_markdown.tags == ["h1", "p", "strong", "p", "h2", "p", "h3"]
    assert "Your teacher writes: good # one - two --- <b>three\n" in from_markdown.text


def test_a_message_of_odd_characters_is_readable(tmp_path):
    message = "\n\x1b[1;31mred\x1b[0m \x07bell\0 \udcff half\r\nnext\n\n"
    write_reports(tmp_path, [result("ann", graded("07.1", "wrong", message=message))], EXERCISES)
    for page in page_of(tmp_path, "ann"):
        assert page.pre[0].removesuffix("\n") == "red bell \\udcff half\nnext"
        assert not re.search(r"[\x00\x07\x1b]", page.text)


def test_an_exercise_has_its_sign_its_words_and_its_points(tmp_path):
    signs = {"right": "✓", "wrong": "✗", "not attempted": "○", "missing": "○", "timeout": "!", "crashed": "!"}
    assert set(signs) == set(OUTCOMES)
    for outcome, sign in signs.items():
        write_reports(tmp_path, [result("ann", graded("07.2", outcome, 0))], EXERCISES)
        for page in page_of(tmp_path, "ann"):
            assert f"{sign} 07.2 RMSNorm: {outcome}, 0 of 6 points\n" in page.text
            assert "pre" not in page.tags  # no message


@pytest.mark.parametrize("status", STATUSES)
def test_each_status_is_explained_on_the_page_of_the_student(tmp_path, status):
    write_reports(tmp_path, [result("ann", status=status, chapter="08")], EXERCISES)
    sentence = re.escape(status) + r": \w[^.]{20,}\."
    for page in page_of(tmp_path, "ann"):
        assert re.search(r"Chapter 07\s+missing: no file was handed in for this chapter\.", page.text)
        assert re.search(r"Chapter 08\s+" + sentence.replace(r"[^.]", r"(?:[^.\n]|\.ipynb)"), page.text)
        assert "Total: 0 of 12.5 points" in page.text


def test_every_status_has_words_of_its_own():
    assert set(reports.EXPLAINED) == set(STATUSES) and len(set(reports.EXPLAINED.values())) == len(STATUSES)


def test_a_page_needs_no_other_file_and_no_script(tmp_path):
    write_reports(tmp_path, [result("ann", graded("07.1"))], EXERCISES, "Week 7")
    for path in (tmp_path / "feedback" / "ann.html", tmp_path / "summary.html"):
        text = path.read_text("utf-8")
        assert text.startswith('<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">')
        assert '<meta name="viewport" content="width=device-width, initial-scale=1">' in text
        assert "color-scheme: light dark" in text and "<title>Week 7" in text
        assert not re.search(r"<(script|link|iframe)|https?:|@import|url\(", text)
        assert all(source.startswith("data:") for source in re.findall(r'src="([^"]*)', text))


def class_of_six() -> list[Result]:
    """Totals of 10: 10, 7, 5, 3, 0, 0."""
    root, scale = "A root too many | <b>.", "You forgot the weight."
    return [
        result("a", graded("07.1", points=4), graded("07.2", points=6)),
        result("b", graded("07.1", points=4), graded("07.2", "wrong", 3, mistake=root)),
        result("c", graded("07.1", "wrong", 2), graded("07.2", "wrong", 3, mistake=scale), status="needs review"),
        result("d", graded("07.1", "timeout"), graded("07.2", "wrong", 3, mistake=scale), status="timeout"),
        result("e", graded("07.1", "crashed"), graded("07.2", "not attempted"), status="crashed"),
        result("f", graded("07.1", "missing"), graded("07.2", "missing"), status="missing"),
    ]


def test_the_summary_counts_the_class(tmp_path):
    write_reports(tmp_path, class_of_six(), EXERCISES[:2], "Week 7")
    for page in seen(tmp_path / "summary"):
        text = " ".join(page.text.split())
        assert "Week 7 Students: 6 (1 crashed, 1 timeout, 1 missing, 1 needs review, 2 ok)" in text
        assert "Totals: mean 42 %, median 40 % of 10 points." in text
        assert "07.1 LayerNorm 2 1 1 2 50 % 07.2 RMSNorm 1 3 2 0 50 %" in text
        assert "1 of 4: A root too many | <b>." in text
        assert text.index("2 of 4: You forgot the weight.") < text.index("1 of 4: A root")
        assert page.tags.count("tr") == 3 and page.tags.count("td") == 12 and page.tags.count("li") == 2


def test_the_hardest_exercise_is_the_one_with_the_fewest_points_among_those_who_handed_in(tmp_path):
    results = class_of_six()
    results[3].exercises[1].points = 2  # now 07.2 has 14 of 30, and 07.1 10 of 20
    for _ in range(2):
        write_reports(tmp_path, results, EXERCISES)  # nobody handed in 08.1
        for page in seen(tmp_path / "summary"):
            assert "Hardest: 07.2 RMSNorm, with 47 % of its points" in page.text
        results.append(result("g", graded("07.1", "missing", 0), graded("07.2", "wrong", 2.8)))  # counts for 07.2 alone


def test_the_picture_is_linked_and_embedded(tmp_path):
    write_reports(tmp_path, class_of_six(), EXERCISES)
    png = (tmp_path / "summary.png").read_bytes()
    assert Image.open(io.BytesIO(png)).format == "PNG"
    assert "](summary.png)" in (tmp_path / "summary.md").read_text("utf-8")
    assert pages.base64.b64encode(png).decode() in (tmp_path / "summary.html").read_text("utf-8")


@pytest.mark.parametrize("exercises", [EXERCISES, []])
@pytest.mark.parametrize(
    "results", [[], [result("ann")], [result("ann", status="missing"), result("ann", status="missing", chapter="08")]]
)
def test_small_classes_get_reports_too(tmp_path, results, exercises):
    write_reports(tmp_path, results, exercises)
    assert len(table(tmp_path / "grades.csv")) == 1 + bool(results)
    assert len(table(tmp_path / "long.csv")) == 1 + bool(results) * len(exercises)
    for page in seen(tmp_path / "summary"):
        assert f"Students: {1 if results else 0}" in page.text
        assert ("Totals: mean 0 %" in page.text) == bool(results and exercises) and "Hardest" not in page.text


def bars(figure) -> list[list[tuple[float, float]]]:
    """Of each part, where its bar begins and how long it is, for each exercise."""
    return [[(bar.get_x(), bar.get_width()) for bar in part] for part in figure.axes[0].containers]


def test_a_bar_is_cut_into_the_counts_of_its_exercise():
    figure = classroom.outcomes([("07.1 a", (5, 3, 2, 0)), ("07.2 b", (1, 2, 3, 4))])
    assert bars(figure) == [[(0, 5), (0, 1)], [(5, 3), (1, 2)], [(8, 2), (3, 3)], [(10, 0), (6, 4)]]
    axes = figure.axes[0]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["07.1 a", "07.2 b"]
    assert [text.get_text() for text in axes.texts] == ["5", "1", "3", "2", "2", "3", "4"]  # no 0
    assert axes.get_title(loc="left").endswith("?")


def test_students_are_counted_in_whole_numbers():
    for n in (1, 2, 30):
        assert all(x == int(x) for x in classroom.outcomes([("07.1 a", (n, 0, 0, 0))]).axes[0].get_xticks())


def test_the_colours_differ_in_grey_too():
    greys = sorted(
        sum(w * x for w, x in zip((0.299, 0.587, 0.114), to_rgb(c), strict=True)) for _, c, _ in classroom.PARTS
    )
    assert min(b - a for a, b in pairwise(greys)) > 0.15


@pytest.mark.parametrize("n", [0, 1, 25])
def test_no_label_of_the_figure_touches_another(n):
    figure = classroom.outcomes([(f"07.{i} a_rather_long_name", (20, 5, 4, 1)) for i in range(n)])
    figure.draw_without_rendering()
    axes = figure.axes[0]
    title = next(text for text in axes.get_children() if isinstance(text, Text) and text.get_text().endswith("?"))
    ticks = [*axes.get_yticklabels(), *axes.get_xticklabels()]
    labels = [title, axes.get_legend(), *axes.texts, *ticks, axes.xaxis.label]
    boxes = [label.get_window_extent() for label in labels]
    assert not [1 for i, a in enumerate(boxes) for b in boxes[:i] if a.overlaps(b)]
    assert all(figure.bbox.x0 <= box.x0 and box.x1 <= figure.bbox.x1 for box in boxes)
