"""https: an endpoint with a certificate that is trusted answers; one that is not trusted is told in a line."""

from __future__ import annotations

import shutil
import ssl
import subprocess
from pathlib import Path

import pytest
from faulty_server import Say, Server, completion, prompt_of

from didact.errors import UsageError
from didact.llm import Endpoint, EndpointConfig, Llm, Log, Request


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, ssl.SSLContext]:
    if shutil.which("openssl") is None:
        pytest.skip("openssl, which makes the certificate, is not installed")
    folder = tmp_path_factory.mktemp("tls")
    pair = ["-keyout", str(folder / "key.pem"), "-out", str(folder / "cert.pem")]
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=127.0.0.1"]
    subprocess.run([*command, *pair, "-addext", "subjectAltName=IP:127.0.0.1"], check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "cert.pem", folder / "key.pem")
    return folder / "cert.pem", context


def test_answers_over_tls_on_kept_connections(certificate: tuple[Path, ssl.SSLContext], tmp_path: Path) -> None:
    path, context = certificate
    ways = [{"chunked": True}, {}, {"wait": 0.002}]

    def script(data: dict[str, object], before: int) -> Say:
        prompt = prompt_of(data)
        return Say(body=completion("to " + prompt + "y" * 70_000), **ways[int(prompt) % 3])  # type: ignore[arg-type]

    with Server(script, context) as server, Log(tmp_path / "log") as log:
        llm = Llm(Endpoint(EndpointConfig(base_url=server.url, model="m", ca_file=str(path), slots=4)), log)
        replies = llm.ask([Request((("user", str(i)),)) for i in range(60)])
        assert [reply.text for reply in replies] == [f"to {i}" + "y" * 70_000 for i in range(60)]
        assert server.calls == 60
        llm.close()


def test_a_certificate_nobody_vouches_for_is_told(certificate: tuple[Path, ssl.SSLContext], tmp_path: Path) -> None:
    with Server(lambda data, before: Say(body=completion("x")), certificate[1]) as server:
        with Log(tmp_path / "log") as log:
            llm = Llm(Endpoint(EndpointConfig(base_url=server.url, model="m", backoff=0.01)), log)
            with pytest.raises(UsageError, match="the certificate is not trusted"):
                llm.ask([Request((("user", "x"),))])
            llm.close()
        assert server.calls == 0
