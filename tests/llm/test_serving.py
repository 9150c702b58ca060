"""A real server, not one of ours: `transformers serve` with the starter on loopback."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest

from didact import starter
from didact.errors import UsageError
from didact.infer import Answerer
from didact.instance import Instance
from didact.llm import Endpoint, EndpointConfig, Llm, Log, Request
from didact.model import load
from didact.speak import speaker

pytestmark = pytest.mark.slow  # half a minute, most of it starting the server


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of `transformers serve`; it finds the starter by its folder."""
    command = Path(sys.executable).with_name("transformers")
    for package in ("fastapi", "uvicorn", "openai"):
        if find_spec(package) is None or shutil.which(str(command)) is None:
            pytest.skip(f"{package} is not installed: pip install 'didact[serving]'")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    log = tmp_path_factory.mktemp("serve") / "log"
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    arguments = ["serve", str(starter.base_folder()), "--host", "127.0.0.1", "--port", str(port), "--device", "cpu"]
    arguments += ["--dtype", "float32"]  # as we load it; the weights are stored in bf16
    with log.open("wb") as output:
        process = subprocess.Popen([str(command), *arguments], stdout=output, stderr=output, env=environment)
        try:
            for _ in range(600):
                time.sleep(0.2)
                if process.poll() is not None:
                    pytest.fail(f"the server ended: {log.read_text()[-500:]}")
                try:
                    urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=2).close()
                    break
                except urllib.error.HTTPError:
                    break
                except OSError:
                    continue
            yield f"http://127.0.0.1:{port}/v1"
        finally:
            process.terminate()
            process.wait(20)


@pytest.fixture(scope="module")
def questions() -> list[Instance]:
    from didact.build import BuildConfig, build

    tasks = starter.tasks(2, 3, only=["pick/*", "lookup/*/prose"])
    return list(build(tasks, BuildConfig(heldout_templates=0, heldout_rows=0), lambda drop: None))[:12]


def test_it_says_what_the_model_says_here(server: str, questions: list[Instance], tmp_path: Path) -> None:
    """The server's greedy answers over HTTP are those of the same weights in this process, and none is asked twice."""
    requests = [Request((("user", question.messages[0].text),), max_tokens=8) for question in questions]
    model = str(starter.base_folder())
    with Log(tmp_path / "calls.jsonl") as log:
        llm = Llm(Endpoint(EndpointConfig(base_url=server, model=model, slots=3)), log)
        replies = llm.ask(requests)
        again = llm.ask(requests)
        llm.close()
    assert all(reply.ok or reply.why == "the answer is blank" for reply in replies)
    assert again == replies
    assert llm.counts.calls == len({request.text for request in requests})
    loaded = load("starter")
    here = speaker(loaded)(requests)
    assert [reply.text.strip() for reply in replies] == [answer.text for answer in here]
    greedy = Answerer(loaded, max_new_tokens=8).answer(questions)
    assert [answer.text for answer in greedy] == [answer.text for answer in here]


def test_a_wrong_path_is_told_in_one_line(server: str, tmp_path: Path) -> None:
    with Log(tmp_path / "calls.jsonl") as log:
        wrong = EndpointConfig(base_url=server + "/nowhere", model="m")
        llm = Llm(Endpoint(wrong), log)
        with pytest.raises(UsageError, match=r"404.*check base_url"):
            llm.ask([Request((("user", str(i)),)) for i in range(20)])
        llm.close()
