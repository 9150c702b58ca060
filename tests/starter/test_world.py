"""The world: one seed, one world; kinds do not overlap; some of everything is kept for evaluation."""

from __future__ import annotations

import hashlib
import json

from didact.starter.world import is_reserved, world


def test_a_seed_gives_one_world() -> None:
    world.cache_clear()
    one = [world(3).facts, world(3).labels]
    world.cache_clear()
    assert [world(3).facts, world(3).labels] == one
    assert world(4).facts != world(3).facts


def test_the_shipped_world_is_what_the_base_was_trained_on() -> None:
    text = json.dumps([{k: dict(v) for k, v in world().facts.items()}, world().labels], sort_keys=True)
    assert hashlib.sha256(text.encode()).hexdigest()[:12] == "33f0c97e7200"


def test_a_word_has_one_kind() -> None:
    every = [word for words in world().kinds.values() for word in words]
    assert len(every) == len(set(every))
    assert not set(every) & set(world().kinds)


def test_opposites_go_both_ways() -> None:
    assert all(world().opposites[b] == a for a, b in world().opposites.items())


def test_people_and_keys_are_reserved() -> None:
    w = world()
    assert len(w.reserved_names) >= 15
    assert not set(w.names) & set(w.reserved_names)
    for name, facts in w.facts.items():
        assert 5 <= sum(map(is_reserved, facts)) < len(facts) / 2, name
