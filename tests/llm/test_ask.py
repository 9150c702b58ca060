"""Asking: every prompt ends in a counted state, in order, paid once; faults, limits, budget and keys as promised."""

from __future__ import annotations

import json
import resource
import socket
import time
from collections.abc import Callable, Iterator
from itertools import count, pairwise
from pathlib import Path
from typing import Any

import pytest
from faulty_server import FAULTS, Say, Server, completion, echo_hash, embedding, http_date, ok, prompt_of

from didact.errors import Interrupted, UsageError
from didact.llm import (
    Answer,
    Budget,
    BudgetConfig,
    Endpoint,
    EndpointConfig,
    Llm,
    Local,
    Log,
    Reply,
    Request,
    vector,
)


@pytest.fixture
def ask(tmp_path: Path) -> Iterator[Callable[..., Llm]]:
    """Makes an Llm for a server with its log in the test's folder; closes all at the end."""
    made: list[tuple[Llm, Log]] = []

    def make(server: Server, budget: dict[str, Any] | None = None, log: str = "calls.jsonl", **settings: Any) -> Llm:
        for llm, held in made:  # one writer at a time
            if held.path.name == log:
                held.__exit__()
                made.remove((llm, held))
        settings = {"base_url": server.url, "model": "m", "slots": 8, "backoff": 0.001, "deadline": 5.0, **settings}
        kept = Log(tmp_path / log).__enter__()
        llm = Llm(Endpoint(EndpointConfig(**settings)), kept, Budget(BudgetConfig(**(budget or {})), kept))
        made.append((llm, kept))
        return llm

    yield make
    for llm, log in made:
        llm.close()
        log.__exit__()


def said(text: str, **more: Any) -> Request:
    return Request((("user", text),), **more)


def prompts(n: int) -> list[Request]:
    return [said(f"prompt {i}") for i in range(n)]


def test_replies_come_in_order_and_are_paid_once(ask: Callable[..., Llm]) -> None:
    def script(data: dict[str, Any], before: int) -> Say:
        return Say(body=completion("to " + prompt_of(data)), wait=0.02 if prompt_of(data).endswith("3") else 0.0)

    with Server(script) as server:
        llm = ask(server)
        replies = llm.ask(prompts(40))
        assert [reply.text for reply in replies] == [f"to prompt {i}" for i in range(40)]
        assert {reply.state for reply in replies} == {"ok"}
        assert server.calls == llm.counts.calls == 40
        assert llm.ask(prompts(40)) == replies  # in the same process
        again = ask(server)
        assert again.ask(prompts(40)) == replies  # and in the next
        assert again.counts.known == 40
        assert server.calls == 40
        assert (llm.log.requests, llm.log.tokens) == (40, 600)


def test_samples_are_apart_and_equal_prompts_share_a_call(ask: Callable[..., Llm]) -> None:
    numbers = count()
    with Server(lambda data, before: Say(body=completion(f"sample {next(numbers)}"), wait=0.02)) as server:
        llm = ask(server)
        same = llm.ask([said("x")] * 6)
        assert len({reply.text for reply in same}) == 1
        assert server.calls == 1
        assert len({reply.text for reply in llm.ask([said("x", sample=i) for i in range(4)])}) == 4
        assert server.calls == 4  # sample 0 was there


def test_what_is_sent_is_what_was_meant(ask: Callable[..., Llm], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEACHER_KEY", "sk-abcdefghijklmnop1234")
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")  # not used
    with Server(lambda data, before: ok("fine")) as server:
        request = Request(
            (("system", "be short"), ("user", "hé 😀")), temperature=0.7, top_p=0.5, presence_penalty=2.0,
            max_tokens=9, stop=("\n\n",), bias=((50256, -100.0),),
        )  # fmt: skip
        ask(server, key="TEACHER_KEY", extra={"reasoning_effort": "low"}).ask([request])
        assert server.bodies[0] == {
            "model": "m",
            "messages": [{"role": "system", "content": "be short"}, {"role": "user", "content": "hé 😀"}],
            "temperature": 0.7, "top_p": 0.5, "presence_penalty": 2.0, "max_tokens": 9, "stop": ["\n\n"],
            "logit_bias": {"50256": -100.0}, "reasoning_effort": "low",
        }  # fmt: skip
        assert "authorization: Bearer sk-abcdefghijklmnop1234\r\n" in server.heads[0]
        assert server.heads[0].startswith("POST /v1/chat/completions HTTP/1.1\r\n")
        plain = ask(server, log="other.jsonl", api="completions", limit_name="max_completion_tokens")
        plain.ask([Request(prompt="Once", max_tokens=3)])
        assert server.heads[1].startswith("POST /v1/completions ")
        assert server.bodies[1] == {"model": "m", "prompt": "Once", "temperature": 0.0, "max_completion_tokens": 3}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_tried_again_and_the_rest_is_not_touched(fault: str, ask: Callable[..., Llm]) -> None:
    def script(data: dict[str, Any], before: int) -> Say:
        return FAULTS[fault] if prompt_of(data) == "prompt 5" and before < 2 else ok("to " + prompt_of(data))

    with Server(script) as server:
        llm = ask(server)
        llm.ask([said("first")])
        assert [reply.text for reply in llm.ask(prompts(12))] == [f"to prompt {i}" for i in range(12)]
        assert server.seen["prompt 5"] == 3
        assert llm.counts.waits == (2 if fault.startswith(("429", "503", "529")) else 0)


def test_answers_in_chunks_up_to_the_close_and_after_a_continue(ask: Callable[..., Llm]) -> None:
    body = json.dumps(completion("x")).encode()
    ways = [
        Say(body=completion("x"), chunked=True),
        Say(body=completion("x"), close=True),
        Say(raw=b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length:%d\r\n\r\n%b" % (len(body), body)),
    ]
    numbers = count()
    with Server(lambda data, before: ways[next(numbers) % 3]) as server:
        assert {reply.text for reply in ask(server, slots=1).ask(prompts(9))} == {"x"}
        assert server.calls == 9


def test_a_prompt_that_never_works_fails_and_is_counted_with_its_reason(ask: Callable[..., Llm]) -> None:
    with Server(lambda data, before: Say(500) if prompt_of(data) == "prompt 1" else ok("fine")) as server:
        llm = ask(server, retries=3)
        replies = llm.ask(prompts(4))
        assert [reply.state for reply in replies] == ["ok", "failed", "ok", "ok"]
        assert (replies[1].why, replies[1].calls) == ("the teacher answers 500", 4)
        assert llm.counts.failed == {"the teacher answers 500": 1}
        assert llm.counts.ended == 4
        server.script = lambda data, before: ok("now")
        assert ask(server).ask(prompts(4))[1].text == "now"  # failures are asked again by the next command


def test_what_is_no_use_is_rejected_with_its_reason(ask: Callable[..., Llm]) -> None:
    answers = {
        "prompt 0": completion("   \n"),
        "prompt 1": completion(None, refusal="I cannot"),
        "prompt 2": completion("half", finish="content_filter"),
        "prompt 3": completion("x" * 1_000_000),
        "prompt 4": completion("broken \ud800 text"),
        "prompt 5": completion("cut", finish="length"),
        "prompt 6": completion(None),
    }
    with Server(lambda data, before: Say(body=answers[prompt_of(data)])) as server:
        llm = ask(server)
        replies = llm.ask(prompts(7))
        assert [(reply.state, reply.why) for reply in replies] == [
            ("rejected", "the answer is blank"),
            ("rejected", "the teacher refuses"),
            ("rejected", "the teacher refuses"),
            ("rejected", "the answer is longer than 200,000 characters"),
            ("rejected", "the answer holds half a character"),
            ("ok", ""),
            ("rejected", "the answer is blank"),
        ]
        assert replies[5].finish == "length"
        assert ask(server).ask(prompts(7)) == replies  # paid for: not asked again
        assert server.calls == 7


def test_a_prompt_that_the_endpoint_refuses_fails_without_a_second_try(ask: Callable[..., Llm]) -> None:
    def script(data: dict[str, Any], before: int) -> Say:
        return Say(400, {"error": {"message": "too long"}}) if prompt_of(data) == "prompt 2" else ok("fine")

    with Server(script) as server:
        replies = ask(server).ask(prompts(4))
        assert replies[2] == Reply("failed", why="refused with 400: too long", key=replies[2].key, calls=1)
        assert server.calls == 4


STOPS: dict[str, tuple[Say, str]] = {
    "401": (Say(401, {"error": {"message": "Incorrect API key: sk-secretsecret1234567890"}}), "check TEACHER_KEY"),
    "403": (Say(403, b"<html>no</html>"), "check TEACHER_KEY"),
    "404": (Say(404, {"detail": "Not Found"}), "check base_url"),
    "model": (Say(400, {"error": {"code": "model_not_found", "message": "no m"}}), 'no such address or model "m"'),
    "quota": (Say(429, {"error": {"type": "insufficient_quota", "message": "You exceeded"}}), "no credit"),
    "402": (Say(402, {}), "add credit"),
    "moved": (Say(308, b"", headers=(("location", "https://new.example/v1"),)), "https://new.example/v1"),
    "always 400": (
        Say(400, {"error": {"message": "temperature is not supported"}}),
        "every prompt is refused with 400",
    ),
    "waits an hour": (Say(429, b"", headers=(("retry-after", "3600"),)), "asks to wait 3,600 seconds"),
}


@pytest.mark.parametrize("name", STOPS)
def test_what_meets_every_prompt_stops_after_three_calls(
    name: str, ask: Callable[..., Llm], monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("TEACHER_KEY", "sk-secretsecret1234567890")
    say, told = STOPS[name]
    with Server(lambda data, before: Say(**{**vars(say), "wait": 0.05})) as server:
        llm = ask(server, slots=64, key="TEACHER_KEY")
        with pytest.raises(UsageError) as caught:
            llm.ask(prompts(500))
        assert told in str(caught.value)
        assert server.calls <= 3
        assert "\n" not in str(caught.value)
        shown = str(caught.value) + repr(caught.value.__dict__) + repr(llm.teacher) + "".join(capfd.readouterr())
        assert "sk-secret" not in shown + llm.log.path.read_text()


def test_a_key_that_is_withdrawn_later_stops_the_work_and_keeps_what_was_paid(ask: Callable[..., Llm]) -> None:
    with Server(lambda data, before: ok("fine")) as server:
        server.script = lambda data, before: ok("fine") if server.calls <= 20 else Say(401)
        with pytest.raises(UsageError):
            ask(server).ask(prompts(100))
        server.script = lambda data, before: ok("fine")
        before = server.calls
        again = ask(server)
        assert all(reply.ok for reply in again.ask(prompts(100)))
        assert again.counts.known >= 20 - 8  # all but those that were in flight
        assert server.calls - before == 100 - again.counts.known


def test_a_teacher_that_is_not_there_is_told_at_once(ask: Callable[..., Llm]) -> None:
    with Server(lambda data, before: ok("fine")) as server:
        pass
    start = time.monotonic()
    with pytest.raises(UsageError, match=r"no connection to 127\.0\.0\.1") as caught:
        ask(server, backoff=0.01).ask(prompts(100))
    assert "start the teacher, or check base_url" in str(caught.value)
    assert time.monotonic() - start < 5


def test_a_hang_and_a_drip_end_at_the_deadline(ask: Callable[..., Llm]) -> None:
    def script(data: dict[str, Any], before: int) -> Say:
        if before:
            return ok("fine")
        return Say(hang=True) if prompt_of(data) == "prompt 1" else Say(body=completion("slow" * 200), drip=0.01)

    with Server(script) as server:
        llm = ask(server, deadline=0.3)
        assert [reply.text for reply in llm.ask(prompts(3))] == ["fine"] * 3
        assert server.calls == 6


def test_the_network_may_be_gone_for_a_while(ask: Callable[..., Llm]) -> None:
    with Server(lambda data, before: ok("fine")) as server:
        llm = ask(server, backoff=0.05, retries=1)
        llm.ask(prompts(3))
    import threading

    back = Server(lambda data, before: ok("back"), port=server.port)
    timer = threading.Timer(0.5, back.__enter__)
    timer.start()
    assert {reply.text for reply in llm.ask([said(f"later {i}") for i in range(20)])} == {"back"}
    back.__exit__()


def test_no_answer_for_long_is_the_end(ask: Callable[..., Llm]) -> None:
    with Server(lambda data, before: ok("fine")) as server:
        llm = ask(server, patience=0.3, backoff=0.02)
        llm.ask(prompts(1))
    with pytest.raises(UsageError, match="no answer for"):
        llm.ask([said("later")])


def test_retry_after_is_waited_for_by_all(ask: Callable[..., Llm]) -> None:
    times: list[float] = []

    def script(data: dict[str, Any], before: int) -> Say:
        times.append(time.monotonic())
        if len(times) == 30:
            return Say(429, b"", headers=(("retry-after", "0.5"),))
        return Say(body=completion("fine"), wait=0.005)

    with Server(script) as server:
        llm = ask(server)
        assert all(reply.ok for reply in llm.ask(prompts(100)))
        gap, at = max((b - a, i) for i, (a, b) in enumerate(pairwise(times)))
        assert gap > 0.45
        assert 29 <= at <= 29 + 8  # those in flight had been sent before
        assert llm.counts.waits == 1


def test_a_date_is_read_by_the_servers_own_clock(ask: Callable[..., Llm]) -> None:
    ahead = 3600.0  # the server's clock is an hour fast
    headers = (("retry-after", http_date(ahead + 1)), ("date", http_date(ahead)))
    with Server(lambda data, before: ok("fine") if before else Say(429, b"", headers=headers)) as server:
        start = time.monotonic()
        assert ask(server).ask([said("x")])[0].ok
        assert 0.9 < time.monotonic() - start < 4


def test_concurrency_falls_under_overload_and_rises_again(ask: Callable[..., Llm]) -> None:
    """A server that takes four at a time: the calls it turns away stay few, and the work comes to its end."""

    def script(data: dict[str, Any], before: int) -> Say:
        return Say(429, b"") if server.busy > 4 else Say(body=completion("fine"), wait=0.01)

    with Server(script) as server:
        llm = ask(server, slots=64)
        assert all(reply.ok for reply in llm.ask(prompts(300)))
        assert llm.pace.limit < 32
        assert server.calls < 300 * 1.6
        server.script = lambda data, before: ok("fine")
        llm.ask([said(f"again {i}") for i in range(3000)])
        assert llm.pace.limit == 64


def test_thirty_percent_faults_lose_nothing(ask: Callable[..., Llm]) -> None:
    import random

    rng, kinds = random.Random(0), list(FAULTS.values())
    n = 600

    def script(data: dict[str, Any], before: int) -> Say:
        draw = rng.random()
        return rng.choice(kinds) if draw < 0.3 else ok("to " + prompt_of(data))

    with Server(script) as server:
        llm = ask(server, slots=16, retries=12, longest_wait=0.01)
        llm.ask([said("first")])
        replies = llm.ask(prompts(n))
        assert [reply.text for reply in replies] == [f"to prompt {i}" for i in range(n)]
        assert llm.counts.ended == llm.counts.prompts == n + 1
        assert server.calls <= 1.6 * n


def test_the_budget_is_never_passed_and_goes_on_when_raised(ask: Callable[..., Llm]) -> None:
    prices = {"input_price": 1e6, "output_price": 2e6}  # one and two per token
    for name, most, more in (("requests", 10, {}), ("tokens", 900, {}), ("money", 1000.0, prices)):
        with Server(lambda data, before: Say(body=completion("fine", tokens=(20, 40)), wait=0.01)) as server:
            llm = ask(server, {name: most}, log=f"{name}.jsonl", **more)
            some = [said(f"prompt {i}", max_tokens=50) for i in range(60)]
            with pytest.raises(UsageError, match=rf"budget\.{name}: the budget is reached"):
                llm.ask(some)
            used = {"requests": llm.log.requests, "tokens": llm.log.tokens, "money": llm.log.money}[name]
            assert 0.8 * most <= used <= most
            assert server.calls == llm.log.requests
            again = ask(server, {name: 1e9}, log=f"{name}.jsonl", **more)
            assert all(reply.ok for reply in again.ask(some))
            assert server.calls == 60


def test_a_local_model_is_asked_in_batches_and_paid_once(tmp_path: Path) -> None:
    asked: list[int] = []

    def speak(requests: Any) -> list[Answer]:
        asked.append(len(requests))
        return [
            Answer(request.text + "!", "stop", 1, 2, "the answer is blank" if "b" in request.text else "")
            for request in requests
        ]

    with Log(tmp_path / "log") as log:
        llm = Llm(Local("model-1", speak, batch=2), log)
        replies = llm.ask([said("a"), said("b"), said("c"), said("a")])
        assert [(reply.state, reply.text) for reply in replies] == [
            ("ok", "a!"),
            ("rejected", ""),
            ("ok", "c!"),
            ("ok", "a!"),
        ]
        assert asked == [2, 1]
        assert Llm(Local("model-1", speak), log).ask([said("c")])[0].text == "c!"
        assert asked == [2, 1]
        Llm(Local("model-2", speak), log).ask([said("c")])
        assert asked == [2, 1, 1]


def test_many_prompts_in_flat_memory(ask: Callable[..., Llm]) -> None:
    """Prompts come from an iterator and texts of a kilobyte go as they come: nothing is kept but a place in the log."""
    n = 6000
    with Server(lambda data, before: ok(echo_hash(data) + "x" * 1000)) as server:
        llm = ask(server, slots=16)
        asked = (said(f"prompt {i}") for i in range(n))
        seen, sizes = 0, []
        for reply in llm.each(asked):
            assert reply.ok
            seen += 1
            if seen % 1000 == 0:
                sizes.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
        assert seen == server.calls == n
        assert sizes[-1] - sizes[1] < 4 << 10  # KiB: 4,000 texts of a kilobyte would be as much, window aside


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"base_url": "https://user:pw1234567890@host/v1"}, "must not hold a key"),
        ({"base_url": "https://host/v1?api_key=abcdefabcdef123456"}, "must not hold a key"),
        ({"base_url": "host:80/v1"}, "not an address"),
        ({"base_url": "http://host:99999/v1"}, "port"),
        ({"key": "sk-abcdefghijklmnop1234"}, "not the key itself"),
        ({"extra": {"api_key": "sk-abcdefghijklmnop1234"}}, "looks like a key"),
    ],
)
def test_keys_do_not_belong_in_a_recipe(settings: dict[str, Any], told: str) -> None:
    from pydantic import ValidationError

    with pytest.raises(ValidationError) as caught:
        EndpointConfig(**{"base_url": "http://127.0.0.1/v1", "model": "m", **settings})
    assert told in caught.value.errors()[0]["msg"]


def test_a_key_that_is_missing_is_told_by_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TEACHER_KEY", raising=False)
    config = EndpointConfig(base_url="http://127.0.0.1/v1", model="m", key="TEACHER_KEY")
    with pytest.raises(UsageError, match="TEACHER_KEY is not set"):
        Endpoint(config)


def test_a_kept_connection_that_the_server_has_left_is_no_fault(ask: Callable[..., Llm]) -> None:
    with Server(lambda data, before: Say(body=completion("fine"), hangup=True)) as server:
        llm = ask(server, slots=2, retries=0)
        assert llm.ask(prompts(2))
        time.sleep(0.1)  # the server has closed by now
        assert [reply.state for reply in llm.ask([said(f"later {i}") for i in range(2)])] == ["ok", "ok"]
        assert server.calls == 4


def test_a_key_of_any_form_is_taken_out_of_what_an_endpoint_says(
    ask: Callable[..., Llm], monkeypatch: pytest.MonkeyPatch
) -> None:
    key = "Quite.Another/Form=7"
    monkeypatch.setenv("TEACHER_KEY", key)
    told = {"error": {"message": f"who is {key}? and who is AIzaSyA1234567890abcdefgh, Bearer abcdefghijk123456"}}
    with Server(lambda data, before: Say(400, told) if prompt_of(data) == "prompt 1" else ok("fine")) as server:
        llm = ask(server, key="TEACHER_KEY", key_header="x-api-key")
        replies = llm.ask(prompts(3))
        assert f"x-api-key: {key}\r\n" in server.heads[0]
    assert replies[1].why == "refused with 400: who is [key]? and who is [key], [key]"
    assert key not in llm.log.path.read_text() + repr(llm.counts)


def test_a_stop_in_the_middle_of_a_write_is_raised_and_nothing_else_is_said(
    ask: Callable[..., Llm], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    send, sent = socket.socket.send, 0

    def stop(self: socket.socket, data: bytes) -> int:
        nonlocal sent
        if data.startswith(b"POST"):
            sent += 1
            if sent == 6:
                raise Interrupted("stopped")
        return send(self, data)

    with Server(lambda data, before: ok(echo_hash(data))) as server:
        monkeypatch.setattr(socket.socket, "send", stop)
        with pytest.raises(Interrupted):
            ask(server, slots=2).ask(prompts(40))
    assert caplog.text == ""


def test_the_cost_of_every_answer_counts_once_whichever_command_paid_it(ask: Callable[..., Llm]) -> None:
    prices = {"input_price": 1e6, "output_price": 2e6}  # 10 tokens read and 5 written cost 20
    with Server(lambda data, before: ok("fine")) as server:
        first = ask(server, **prices)
        first.ask([*prompts(4), said("prompt 0")])  # the same prompt twice is one call
        first.ask(prompts(2))
        assert (first.counts.prompts, first.counts.tokens, first.counts.money) == (7, 60, 80.0)
        later = ask(server, **prices)
        later.ask(prompts(6))  # four known, two new
        assert (later.counts.known, later.counts.tokens, later.counts.money) == (4, 90, 120.0)
        assert server.calls == 6


def test_equal_prompts_of_a_batch_of_a_local_model_count_once(tmp_path: Path) -> None:
    with Log(tmp_path / "log") as log:
        llm = Llm(Local("model-1", lambda requests: [Answer("x", "stop", 3, 1) for _ in requests]), log)
        llm.ask([said("a"), said("a"), said("b")])
    assert (llm.counts.tokens, llm.counts.known, llm.counts.calls) == (8, 1, 2)


def test_vectors_of_an_endpoint_are_asked_counted_and_paid_like_every_call(ask: Callable[..., Llm]) -> None:
    bad = [embedding([]), embedding(["x"]), embedding([1e400]), ok("no vector"), Say(200, {"data": []}), Say(500)]

    def script(data: dict[str, Any], before: int) -> Say:
        number = int(data["input"].split()[1])
        return bad[number] if number < len(bad) and before == 0 else embedding([number, 0.5])

    with Server(script) as server:
        llm = ask(server, api="embeddings", input_price=1e6, extra={"dimensions": 2})
        replies = llm.ask(Request(prompt=f"text {i}", max_tokens=0) for i in range(9))
        assert [list(vector(reply.text)) for reply in replies] == [[i, 0.5] for i in range(9)]
        assert server.heads[0].startswith("POST /v1/embeddings ")
        assert server.bodies[0] == {"model": "m", "input": "text 0", "dimensions": 2}
        assert server.calls == 9 + len(bad)  # a vector that cannot be read is a fault, and asked again
        assert (llm.counts.tokens, llm.counts.money) == (63, 63.0)
        again = ask(server, api="embeddings", extra={"dimensions": 2})
        assert again.ask(Request(prompt=f"text {i}", max_tokens=0) for i in range(9)) == replies
        assert server.calls == 9 + len(bad)


@pytest.mark.parametrize("local", [False, True])
def test_an_answer_that_repeats_the_prompt_is_rejected_once_for_all(
    local: bool, ask: Callable[..., Llm], tmp_path: Path
) -> None:
    """A judge that sends the rubric back would give the mark that the rubric ends with."""
    long = "Judge the answer below from 1 to 5. " * 12
    prompts = [said("Say yes."), said(long + "0"), said(long + "1"), Request(prompt=long + "2"), said("Say yes")]
    answers = {"Say yes.": " say  YES.", long + "0": f"{long}0 5", long + "1": "5", long + "2": long + "2"}
    if local:
        with Log(tmp_path / "log") as log:
            llm = Llm(Local("m", lambda asked: [Answer(answers.get(r.last, "Yes")) for r in asked]), log)
            replies = llm.ask(prompts)
    else:
        with Server(lambda data, before: ok(answers.get(prompt_of(data), "Yes"))) as server:
            replies = ask(server).ask(prompts)
    states = [(reply.state, reply.why) for reply in replies]
    echo = ("rejected", "the answer repeats the prompt")
    assert states == [echo, echo, ("ok", ""), echo, ("ok", "")]
