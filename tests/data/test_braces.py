"""Patterns of shards are counted before they are expanded."""

import pytest

from edcompress.data.braces import MOST_NAMES, most_names, require_few_names

braceexpand = pytest.importorskip("braceexpand", reason="comes with webdataset, which is optional")


@pytest.mark.parametrize(
    ("pattern", "most"),
    [("a.tar", 1), ("a-{000..146}.tar", 147), ("a-{9..1..2}", 5), ("a-{1..5..-2}", 3), ("{a,b}/{1..3}", 6), ("{a}", 1), ("{,b}", 2)],
)  # fmt: skip
def test_the_names_of_a_pattern_are_counted(pattern: str, most: int) -> None:
    assert most_names(pattern) == most == len(list(braceexpand.braceexpand(pattern)))


@pytest.mark.parametrize(
    "pattern", ["{x{1..3},y{5,6}}", "{a..f}", "{a..z..5}{A..c}", "{{1..3},{a,{b,c}}}", r"\{1,2\}{3,4}"]
)
def test_the_count_is_an_upper_bound(pattern: str) -> None:
    assert most_names(pattern) >= len(list(braceexpand.braceexpand(pattern)))


@pytest.mark.parametrize(
    "pattern",
    ["a-{0..999999999}.tar", "{0..99999}::{0..99999}", "{1..400}{1..400}", "{0..9}" * 6, "{x,{0..999999999}}", "{,}" * 17,
     "{" + "0" * 2000 + "1..9}", "{" * 2000 + "}" * 2000, "{a..z}" * 5, "a" * 5000],
)  # fmt: skip
def test_too_many_names_are_refused_before_they_are_made(pattern: str) -> None:
    with pytest.raises(ValueError, match=rf"at most {MOST_NAMES}|at most 4096 characters"):
        require_few_names(pattern.split("::"))
