"""The stage generate in a run: what it writes and counts, going on after a stop, a changed recipe, bill and budget."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from faulty_server import Say, Server, completion, embedding, ok, prompt_of, tasks

from didact.cli import app
from didact.console import Console
from didact.errors import UsageError
from didact.folder import read_journal, read_lines
from didact.generation import bill, held_out_tasks, inputs
from didact.instance import Instance, Message, Origin, Part
from didact.llm import Answer, Log
from didact.recipe import Recipe
from didact.run import Run, open_run

RECIPE = """\
name: grown
model: {model}
sources: [{{type: file, path: rows.jsonl}}]
build: {{heldout_rows: 0}}
teachers: {{big: {{type: endpoint, base_url: "{url}", model: m, slots: 4, backoff: 0.01}}}}
generate: [{{type: self_instruct, target: 12}}]
tune: {{max_length: 512}}
"""


@pytest.fixture
def home(tmp_path: Path) -> Path:
    rows = [{"instruction": f"Count to {n}.", "input": "", "output": str(n)} for n in range(8)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return tmp_path


@pytest.fixture
def start(home: Path, tiny_llama: Path) -> Callable[..., Run]:
    def run(server: Server, *overrides: str, last: str = "generate", anew: bool = False) -> Run:
        recipe = home / "recipe.yaml"
        if not recipe.exists():
            recipe.write_text(RECIPE.format(model=tiny_llama, url=server.url))
        with open_run(recipe, home / "run", overrides, Console(quiet=True)) as opened:
            opened.anew = anew
            opened.upto(last)
        return opened

    return run


def teacher(data: dict[str, Any], before: int) -> Say:
    return ok(tasks(data))


def test_what_is_generated_is_written_counted_and_curated(start: Callable[..., Run]) -> None:
    with Server(teacher) as server:
        run = start(server, last="curate")
    made, kept = list(run.instances("generated.jsonl")), list(run.instances("kept.jsonl"))
    assert len({i.tags["instruction"] for i in made}) == 12
    assert {i.id for i in made} <= {i.id for i in kept}
    assert len(kept) == len(made) + 8
    journal = read_journal(run.path)["stages"]["generate"]
    assert journal["counts"]["instances"] == len(made)
    assert journal["counts"]["calls"] == journal["counts"]["prompts"] == server.calls
    (account,) = json.loads((run.path / "generation.json").read_text())
    assert (account["strategy"], account["made"], account["ok"]) == ("self_instruct", len(made), server.calls)
    assert account["tokens"] == 15 * server.calls
    dropped = [record for record in read_lines(run.path / "dropped.jsonl") if record["stage"] == "generate"]
    assert sum(account["dropped"].values()) == len(dropped)
    spare = account["dropped"]["spare: more than target"]  # good, but more than was asked for: told apart
    assert (journal["counts"]["spare"], journal["counts"]["dropped"]) == (spare, len(dropped) - spare)


def test_it_is_reused_and_a_change_of_speed_or_budget_changes_nothing(start: Callable[..., Run]) -> None:
    with Server(teacher) as server:
        first = (start(server).path / "generated.jsonl").read_bytes()
        calls = server.calls
        run = start(server, "teachers.big.slots=1", "budget.requests=100000", "teachers.big.deadline=9")
        assert server.calls == calls
        assert (run.path / "generated.jsonl").read_bytes() == first
        start(server, "generate.0.licence=MIT")  # other instances of the same answers: nothing is paid again
        assert server.calls == calls
        assert (run.path / "generated.jsonl").read_bytes() != first
        start(server, "generate=[]", last="curate")
        assert len(list(run.instances("kept.jsonl"))) == 8  # what was generated before is not taken in


class Stopped(Exception):
    pass


def stop_midway(server: Server, start: Callable[..., Run], monkeypatch: pytest.MonkeyPatch, after: int = 14) -> None:
    count, add = 0, Log.add

    def add_and_stop(self: Log, record: dict[str, Any]) -> None:
        nonlocal count
        add(self, record)
        count += 1
        if count == after:
            raise Stopped

    with monkeypatch.context() as patch:
        patch.setattr(Log, "add", add_and_stop)
        with pytest.raises(Stopped):
            start(server)


def test_stopped_midway_it_goes_on_and_pays_only_for_the_rest(
    start: Callable[..., Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    with Server(teacher) as server:
        stop_midway(server, start, monkeypatch)
        run = start(server)
        instances = list(run.instances("generated.jsonl"))
        assert len({i.tags["instruction"] for i in instances}) == 12
        assert server.calls <= read_journal(run.path)["stages"]["generate"]["counts"]["prompts"] + 4  # those in flight


def test_a_recipe_changed_midway_is_refused_with_the_difference_or_taken_on_demand(
    start: Callable[..., Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    with Server(teacher) as server:
        stop_midway(server, start, monkeypatch)
        with pytest.raises(UsageError) as caught:
            start(server, "generate.0.target=9")
        assert "generate.0.target changed (12 -> 9)" in str(caught.value)
        assert "--anew" in str(caught.value)
        calls = server.calls
        start(server, "budget.tokens=1000000")  # not what decides what is made
        assert server.calls > calls


def test_a_mistake_that_cost_nothing_is_mended_without_more_ado(start: Callable[..., Run], home: Path) -> None:
    with Server(teacher) as server:
        for text, told in (("", "the file holds no rows"), ("not json", "malformed JSON"), (None, "no such file")):
            (home / "seeds.jsonl").unlink(missing_ok=True)
            if text is not None:
                (home / "seeds.jsonl").write_text(text)
            with pytest.raises(UsageError, match=told):
                start(server, "generate.0.seeds=seeds.jsonl")
        assert server.calls == 0
        start(server)
        assert server.calls > 0


def test_a_changed_recipe_can_go_on_anew(start: Callable[..., Run], monkeypatch: pytest.MonkeyPatch) -> None:
    with Server(teacher) as server:
        stop_midway(server, start, monkeypatch)
        calls = server.calls
        run = start(server, "generate.0.target=9", anew=True)
        assert len({i.tags["instruction"] for i in run.instances("generated.jsonl")}) == 9
        known = json.loads((run.path / "generation.json").read_text())[0]["known"]
        assert known >= 10  # paid answers are kept
        assert server.calls - calls == read_journal(run.path)["stages"]["generate"]["counts"]["prompts"] - known


def test_a_stop_in_one_line_keeps_what_was_paid(start: Callable[..., Run]) -> None:
    with Server(teacher) as server:
        with pytest.raises(UsageError, match=r"budget\.requests: the budget is reached: 9 of 9 requests used"):
            start(server, "budget.requests=9")
        assert server.calls == 9
        server.script = lambda data, before: Say(401, {"error": {"message": "no"}})
        with pytest.raises(UsageError, match=r"check a key: the recipe names none"):
            start(server)
        assert server.calls <= 12
        server.script = teacher
        start(server)
        assert server.calls <= 12 + 3 + 40


def test_nothing_generated_is_told_with_the_reason(start: Callable[..., Run]) -> None:
    with Server(lambda data, before: Say(body=completion("I'm sorry, but I cannot help with that."))) as server:
        with pytest.raises(UsageError) as caught:
            start(server, "generate.0.rounds_in_vain=2")
        assert "no instance was generated" in str(caught.value)
        assert "instruction: a refusal" in str(caught.value)
    with Server(lambda data, before: Say(body=b"<html>down for repairs</html>")) as server:
        with pytest.raises(UsageError) as caught:
            start(
                server,
                "generate.0.rounds_in_vain=1",
                "generate.0.exemplars=7",
                f"teachers.big.base_url={server.url}",
                "teachers.big.retries=1",
                anew=True,
            )
        assert "the answer is not JSON" in str(caught.value)


def test_the_bill_is_printed_and_nothing_is_asked(
    start: Callable[..., Run], home: Path, tiny_llama: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with Server(teacher) as server:
        prices = f"{{type: endpoint, base_url: '{server.url}', model: m, input_price: 2.0, output_price: 8.0}}"
        (home / "recipe.yaml").write_text(RECIPE.format(model=tiny_llama, url=server.url))
        arguments = ["generate", str(home / "recipe.yaml"), "--out", str(home / "run"), "--dry-run"]
        app([*arguments, "--set", f"teachers.big={prices}"], standalone_mode=False)
        assert server.calls == 0
    out = capsys.readouterr().out
    assert "self_instruct: about 28 requests" in out
    assert "(big: m)" in out
    assert "; at least 1 s for each second that a call takes" in out  # 28 calls, 32 at once
    assert not (home / "run" / "generated.jsonl").exists()


def test_a_recipe_without_strategies_says_so(home: Path, tiny_llama: Path) -> None:
    (home / "recipe.yaml").write_text(RECIPE.format(model=tiny_llama, url="http://127.0.0.1:9/v1"))
    with pytest.raises(UsageError, match="the recipe has no strategy"):
        app(["generate", str(home / "recipe.yaml"), "--set", "generate=[]"], standalone_mode=False)


def test_tasks_that_are_held_out_stay_so_whoever_answers_them() -> None:
    def row(task: str, level: str) -> Instance:
        turns = (Message("user", (Part(task),)), Message("assistant", (Part("x"),)))
        return Instance.of(turns, Origin("s", 1, task=task, cluster="c"), tags={"level": level})

    rows = [row("a", "heldout_task"), row("b", "heldout_cluster"), row("d", "seen_template")]
    assert held_out_tasks(iter(rows)) == {("a", "c"), ("b", "c")}


def test_fresh_questions_of_the_starter_are_answered_by_a_local_model(
    home: Path, tiny_llama: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The default way, without any endpoint; what the model would say is given here, a third of it no choice."""

    def says(loaded: Any) -> Callable[..., list[Answer]]:
        return lambda requests: [Answer(("yes", "No.", "perhaps")[len(r.text) % 3]) for r in requests]

    monkeypatch.setattr("didact.speak.speaker", says)
    (home / "recipe.yaml").write_text(f"""\
name: offline
model: {tiny_llama}
sources: [{{type: starter, rows_per_task: 2, only: ["check/*", "odd/4"]}}]
build: {{heldout_tasks: ["odd/4"]}}
teachers: {{own: {{type: local, model: {tiny_llama}}}}}
generate:
  - {{type: distill, sources: [{{type: starter, rows_per_task: 2, seed: 1, only: ["check/*", "odd/4"]}}], max_tokens: 4,
     only_valid: false}}
""")
    with open_run(home / "recipe.yaml", home / "run", [], Console(quiet=True)) as run:
        run.upto("generate")
    made = list(run.instances("generated.jsonl"))
    assert made
    assert all(i.tags["right"] in ("yes", "no") and i.tags["valid"] in ("yes", "no") for i in made)
    assert {i.origin.task for i in made}.isdisjoint({"odd/4"})
    assert "own" not in made[0].origin.teacher
    counts = read_journal(run.path)["stages"]["generate"]["counts"]
    assert 0 < counts["valid"] == sum(i.tags["valid"] == "yes" for i in made) < len(made)
    before = (run.path / "generated.jsonl").read_bytes()
    (run.path / "generated.jsonl").unlink()
    with open_run(home / "run", None, [], Console(quiet=True)) as again:
        again.upto("generate")
    assert (run.path / "generated.jsonl").read_bytes() == before


def test_the_default_teacher_says_how_it_is_made(home: Path, tiny_llama: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(home)
    (home / "recipe.yaml").write_text(
        f"model: {tiny_llama}\nsources: [{{type: file, path: rows.jsonl}}]\ngenerate: [{{type: distill}}]\n"
    )
    run = open_run(home / "recipe.yaml", home / "run", [], Console(quiet=True))
    with run, pytest.raises(UsageError, match="make demo makes it"):
        run.upto("generate")


def test_prompts_are_asked_in_the_words_of_the_chat(start: Callable[..., Run]) -> None:
    with Server(teacher) as server:
        start(server)
        assert {body["model"] for body in server.bodies} == {"m"}
        assert any(prompt_of(body).startswith("Think of a series of tasks.") for body in server.bodies)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_it_in_order_and_the_command_goes_on(
    start: Callable[..., Run], home: Path, tiny_llama: Path, number: int, code: int
) -> None:
    with Server(lambda data, before: Say(body=completion(tasks(data)), wait=0.3)) as server:
        (home / "recipe.yaml").write_text(RECIPE.format(model=tiny_llama, url=server.url))
        command = [sys.executable, "-m", "didact", "generate", str(home / "recipe.yaml"), "--out", str(home / "run")]
        running = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        while server.calls < 8 and running.poll() is None:
            time.sleep(0.02)
        running.send_signal(number)
        _, told = running.communicate(timeout=60)
        assert running.returncode == code, told
        assert told.strip().endswith("repeat the command to go on")
        assert told.count("\n") == 1  # one line, no complaints of tasks left behind
        calls = server.calls
        server.script = teacher
        run = start(server)
        counts = read_journal(run.path)["stages"]["generate"]["counts"]
        assert server.calls <= counts["prompts"] + 4  # those in flight
        assert server.calls > calls


def test_a_judge_of_a_run_grades_through_its_teacher_once(
    start: Callable[..., Run], home: Path, tiny_llama: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Graded 5 down, refused once and blank once; the second run asks only for nothing that is known."""

    def judge(data: dict[str, Any], before: int) -> Say:
        text = prompt_of(data)
        if "Count to 3." in text:
            return Say(400, {"error": {"message": "too long for me"}})
        if "Count to 4." in text:
            return ok("I would rather not say.")
        return ok(f"It counts well.\nScore: {2 if 'Count to 7.' in text else 5}")

    settings = ["generate=[]", "curate=[{type: judge, teacher: big}]"]
    with Server(judge) as server:
        run = start(server, *settings, last="curate")
        records = read_lines(run.path / "dropped.jsonl")
        dropped = {r["instance"]["messages"][0]["parts"][0]["value"][:11]: r for r in records}
        assert {name: r["reason"] for name, r in dropped.items()} == {
            "Count to 3.": "the judge gave no grade",
            "Count to 4.": "the judge gave no grade",
            "Count to 7.": "the judge's grade is below 4",
        }
        assert dropped["Count to 7."]["score"] == 2
        assert len(list(run.instances("kept.jsonl"))) == 5
        assert server.calls == 8
        start(server, "generate=[]", "curate=[{type: judge, teacher: big, least: 1}]", last="curate")
        assert server.calls == 9  # the one that failed is tried again, the others are paid
        start(server, *settings[:1], "curate=[{type: judge, teacher: big, low: 0}]", last="curate")
        assert server.calls == 9 + 8


def test_a_changed_file_of_texts_is_a_changed_recipe(home: Path) -> None:
    recipe = Recipe(generate=[{"type": "backtranslate", "texts": "texts.txt"}], teachers=TWO)  # type: ignore[arg-type,list-item]
    (home / "texts.txt").write_text("one\n")
    first = inputs(recipe, home)
    (home / "texts.txt").write_text("two\n")
    changed = {key for key, value in inputs(recipe, home).items() if first.get(key) != value}
    assert changed == {"generate.0.texts: content"}


TWO = {
    "cheap": {"type": "endpoint", "base_url": "http://127.0.0.1:9/v1", "model": "c", "input_price": 0.0},
    "dear": {"type": "endpoint", "base_url": "http://127.0.0.1:9/v1", "model": "d", "output_price": 1000.0},
}


def test_the_bill_counts_a_judge_and_every_teacher_at_the_dearest_price(
    start: Callable[..., Run], home: Path, tiny_llama: Path
) -> None:
    def told(strategy: dict[str, Any]) -> str:
        overrides = [f"teachers={json.dumps(TWO)}", f"generate=[{json.dumps(strategy)}]"]
        recipe = home / "recipe.yaml"
        recipe.write_text(RECIPE.format(model=tiny_llama, url="http://127.0.0.1:9/v1"))
        with open_run(recipe, home / "run", overrides, Console(quiet=True)) as run:
            return bill(run)[0]

    alone = told({"type": "distill", "limit": 5, "teachers": ["cheap"]})
    assert "cost 0.00" in alone
    assert "(cheap: c)" in alone
    both = told({"type": "distill", "limit": 5, "teachers": ["cheap", "dear"], "pick": "all"})
    assert "(cheap: c, dear: d)" in both
    assert "cost 0.00" not in both
    judged = told({"type": "evol_instruct", "limit": 5, "judge": "dear"})
    assert "(cheap: c, dear: d)" in judged
    assert "cost 0.00" not in judged


def test_the_account_shows_how_difficulty_grows(start: Callable[..., Run], home: Path) -> None:
    def evolve(data: dict[str, Any], before: int) -> Say:
        text = prompt_of(data)
        if "GIVEN PROMPT:" in text:
            given = text.split("GIVEN PROMPT:")[1].split("PROMPT:")[0].rsplit("\n\n", 1)[0].strip()
            return ok(f"{given} Then say why.")
        if "Answer with one word, Equal" in text:
            return ok("Different")
        if "Score: N" in text:
            return ok(f"Score: {3 + 2 * text.count('Then say why.')}")
        return ok("Because the sea is wide.")

    with Server(evolve) as server:
        run = start(server, "generate=[{type: evol_instruct, limit: 6, rounds: 2}]")
    (account,) = json.loads((run.path / "generation.json").read_text())
    assert account["difficulty by round"] == {"1": 5.0, "2": 7.0}


def test_what_a_judge_costs_is_in_the_account_and_the_card_and_stays_there(start: Callable[..., Run]) -> None:
    """One call each for 8 rows; graded again with another threshold nothing is called, and the cost is still known."""
    settings = ["generate=[]", "teachers.big.input_price=1000000", "curate=[{type: judge, teacher: big}]"]
    with Server(lambda data, before: ok("Score: 5")) as server:
        run = start(server, *settings, last="card")
        (account,) = json.loads((run.path / "curation.json").read_text())
        assert (account["strategy"], account["calls"], account["money"]) == ("judge", 8, 80.0)
        assert json.loads((run.path / "card/card.json").read_text())["cost"]["money"] == 80.0
        assert read_journal(run.path)["stages"]["curate"]["counts"]["calls"] == 8
        run = start(server, *settings[:2], "curate=[{type: judge, teacher: big, least: 3}]", last="card")
        assert server.calls == 8
        assert json.loads((run.path / "card/card.json").read_text())["cost"]["money"] == 80.0
        run = start(server, *settings[:2], "curate=[]", last="card")
        assert not (run.path / "curation.json").exists()
        assert json.loads((run.path / "card/card.json").read_text())["cost"]["money"] == 0


def test_the_cost_of_a_strategy_stays_known_when_its_answers_are_used_again(start: Callable[..., Run]) -> None:
    with Server(teacher) as server:
        run = start(server, "teachers.big.output_price=1000000")
        (account,) = json.loads((run.path / "generation.json").read_text())
        assert account["money"] == 5 * server.calls > 0
        calls = server.calls
        run = start(server, "teachers.big.output_price=1000000", "generate.0.licence=MIT")
        (again,) = json.loads((run.path / "generation.json").read_text())
    assert server.calls == calls
    assert (again["calls"], again["money"], again["tokens"]) == (0, account["money"], account["tokens"])


def test_the_bill_prices_a_judge_of_curation(start: Callable[..., Run], home: Path, tiny_llama: Path) -> None:
    (home / "recipe.yaml").write_text(RECIPE.format(model=tiny_llama, url="http://127.0.0.1:9/v1"))
    overrides = ["curate=[{type: judge}]", "teachers.big.input_price=10"]
    with open_run(home / "recipe.yaml", home / "run", overrides, Console(quiet=True)) as run:
        last = bill(run)[-1]
    assert last.startswith("curate: judge, for each 1,000 instances it sees: about 1,000 requests")
    assert last.endswith("(big: m)")
    assert "cost 0.00" not in last


def test_diversity_compares_by_the_vectors_of_an_endpoint(start: Callable[..., Run]) -> None:
    """Even and odd numbers point two ways; one of each is kept, and the second command asks nothing."""
    settings = ["generate=[]", "teachers.big.api=embeddings"]
    two = "curate=[{type: diversity, keep: 2, method: k_center, embedding: big}]"

    def say(data: dict[str, Any], before: int) -> Say:
        return embedding([1.0, 0.0] if int(prompt_of(data).split()[2][0]) % 2 else [0.0, 1.0])

    with Server(say) as server:
        run = start(server, *settings, two, last="curate")
        kept = [int(i.answer) % 2 for i in run.instances("kept.jsonl")]
        assert sorted(kept) == [0, 1]
        assert server.calls == 8
        start(server, *settings, two.replace("k_center", "facility_location"), last="curate")
        assert server.calls == 8
        refused = Say(400, {"error": {"message": "too long"}})
        server.script = lambda data, before: refused if "Count to 7." in prompt_of(data) else say(data, before)
        with pytest.raises(UsageError, match=r"teachers\.big: no vector for 'Count to .*: refused with 400: too long"):
            start(server, *settings, "teachers.big.extra={dimensions: 3}", two, last="curate")


def test_a_teacher_of_vectors_answers_nothing_else(start: Callable[..., Run]) -> None:
    with Server(teacher) as server:
        with pytest.raises(UsageError, match=r"teachers\.big\.api: this teacher gives vectors, no answers"):
            start(server, "teachers.big.api=embeddings")
        with pytest.raises(UsageError, match=r"this teacher gives no vectors - set api: embeddings"):
            start(server, "generate=[]", "curate=[{type: diversity, embedding: big}]", last="curate")
        assert server.calls == 0
