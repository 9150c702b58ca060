"""The cache of tokens: equal rows, a hit only if nothing that decides them changed, and never damaged ones."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from didact.encoded import Encoded, Rows, encoded
from didact.fit import Fitted
from didact.instance import Drop, Instance, Message, Origin, Part
from didact.render import Tokens

PARTS = {"rows": "a", "template or tokenizer": "b", "length": "512 drop all", "code": "c"}
HOME = Path("/run/pictures")
TOKENS = [
    Tokens([5, 70_000, 7], [0.0, 1.0, 0.5], [None] * 3, "one", (), ((1, 3),), ("a.jsonl", 3)),
    Tokens([1], [1.0], [None], "two", (), ((0, 1),), ("é.jsonl", 1)),
    Tokens([4, 4, 4, 4], [1.0, 0.0, 0.0, 1.0], [None] * 4, "three", (), ((0, 1), (3, 4)), ("", 0)),
]


def fitted(tokens: list[Tokens] = TOKENS) -> Fitted:
    messages = (Message("user", (Part("a"),)), Message("assistant", (Part("\ud800 b"),)))
    instance = Instance.of(messages, Origin("a.jsonl", 9))
    return Fitted([instance] * len(tokens), tokens, [Drop("too long", "9 tokens", instance.origin, instance)], ["said"])


class Maker:
    def __init__(self, tokens: list[Tokens] = TOKENS) -> None:
        self.calls, self.tokens = 0, tokens

    def __call__(self) -> Fitted:
        self.calls += 1
        return fitted(self.tokens)


def same(found: Encoded) -> bool:
    return list(found.rows) == TOKENS and [drop["reason"] for drop in found.drops] == ["too long"]


def test_the_second_time_nothing_is_encoded_and_all_is_equal(tmp_path: Path) -> None:
    make = Maker()
    first, second = (encoded(tmp_path, PARTS, make, HOME) for _ in range(2))
    assert make.calls == 1
    assert same(first)
    assert same(second)
    assert first.drops == second.drops
    assert (first.notes, second.notes) == (["said"], ["said", "tokens: from the cache"])
    assert isinstance(second.rows, Rows)
    assert second.rows[-1] == TOKENS[2]
    assert second.rows[:2] == TOKENS[:2]
    with pytest.raises(IndexError):
        second.rows[3]


@pytest.mark.parametrize("part", PARTS)
def test_whatever_decides_the_rows_is_in_the_name(part: str, tmp_path: Path) -> None:
    make = Maker()
    encoded(tmp_path, PARTS, make, HOME)
    other = encoded(tmp_path, {**PARTS, part: "another"}, make, HOME)
    assert make.calls == 2
    assert other.notes[-1] == f"tokens: encoded again, because of another {part}"
    assert len(list(tmp_path.iterdir())) == 1
    encoded(tmp_path, PARTS, make, HOME)
    assert make.calls == 3


@pytest.mark.parametrize("name", ["ids.npy", "weights.npy", "ends.npy", "turns.npy", "rows.json", "manifest.json"])
@pytest.mark.parametrize("how", ["flipped", "cut", "gone"])
def test_a_damaged_entry_is_made_again(name: str, how: str, tmp_path: Path) -> None:
    make = Maker()
    encoded(tmp_path, PARTS, make, HOME)
    (place,) = tmp_path.iterdir()
    content = bytearray((place / name).read_bytes())
    content[-2] ^= 1
    if how == "gone":
        (place / name).unlink()
    else:
        (place / name).write_bytes(content if how == "flipped" else content[:-1])
    found = encoded(tmp_path, PARTS, make, HOME)
    assert make.calls == 2
    assert same(found)
    assert "the cache was damaged" in found.notes[-1]


def test_what_was_cut_off_while_writing_is_no_entry(tmp_path: Path) -> None:
    (tmp_path / ".partial").mkdir()
    (tmp_path / ".partial" / "ids.npy").write_bytes(b"x")
    assert same(encoded(tmp_path, PARTS, Maker(), HOME))


def test_pictures_are_kept_by_their_names_and_found_where_the_run_lies_now(tmp_path: Path) -> None:
    seen = Tokens(
        [9, 9, 9, 3, 9, 9, 4], [0.0] * 6 + [1.0], [None] * 7, "one",
        ("/old/pictures/aa.png", "/old/pictures/bb.jpg"), ((6, 7),), ("a.jsonl", 3), ((0, 3), (4, 6)),
    )  # fmt: skip
    make = Maker([seen, TOKENS[1]])
    for home in ("/old/pictures", "/old/pictures", "/new/pictures"):
        found = encoded(tmp_path, PARTS, make, Path(home))
        told = tuple(f"{home}/{name}" for name in ("aa.png", "bb.jpg"))
        assert list(found.rows) == [replace(seen, images=told), TOKENS[1]]
    assert make.calls == 1
