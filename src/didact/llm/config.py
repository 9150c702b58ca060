"""The settings of a teacher: where it is, how it is called, how hard it may be asked."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, field_validator

from didact.llm.secret import secret_in


class EndpointConfig(BaseModel):
    """A teacher behind an OpenAI-compatible address. It is reached directly: proxies named in the
    environment are not used."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    type: Literal["endpoint"] = Field("endpoint", description="an OpenAI-compatible endpoint")
    base_url: str = Field(description="address up to /v1, e.g. https://api.example.com/v1; http or https, no key in it")
    model: str = Field(description="name of the model, as the endpoint calls it", min_length=1)
    api: Literal["chat", "completions", "embeddings"] = Field(
        "chat", description="chat: /chat/completions; completions: plain text; embeddings: vectors, for curate only"
    )
    key: str = Field("", description="name of the environment variable that holds the key; none for no key")
    key_header: str = Field("authorization", description="header of the key; authorization gets Bearer before it")
    slots: int = Field(32, ge=1, le=4096, description="most requests in flight; fewer while the teacher asks to wait")
    deadline: float = Field(180.0, gt=0, description="seconds that one call may take, from sending to the last byte")
    retries: int = Field(
        6, ge=0, description="repetitions after a fault of server or network; being asked to wait is none"
    )
    backoff: float = Field(1.0, gt=0, description="seconds before the first repetition; doubled each time, with jitter")
    longest_wait: float = Field(60.0, gt=0, description="most seconds between two repetitions")
    patience: float = Field(900.0, gt=0, description="seconds without any answer after which the work is stopped")
    longest: int = Field(200_000, ge=1, description="an answer of more characters is rejected")
    limit_name: Literal["max_tokens", "max_completion_tokens"] = Field(
        "max_tokens", description="what the endpoint calls the longest answer"
    )
    extra: dict[str, Any] = Field({}, description="further fields of every request, e.g. reasoning_effort: low")
    ca_file: str = Field("", description="certificates to trust for https instead of the system's")
    input_price: float = Field(0.0, ge=0, description="money per million tokens read")
    output_price: float = Field(0.0, ge=0, description="money per million tokens written")

    @field_validator("base_url")
    @classmethod
    def _plain_address(cls, address: str) -> str:
        parts = urlsplit(address)
        if parts.username or parts.password or parts.query or parts.fragment or secret_in(address):
            raise ValueError("the address must not hold a key or a query: name an environment variable in `key`")
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError("not an address such as https://api.example.com/v1")
        try:
            _ = parts.port
        except ValueError as error:
            raise ValueError("the port of the address is not a number up to 65535") from error
        return address.rstrip("/")

    @field_validator("key")
    @classmethod
    def _name_of_variable(cls, name: str) -> str:
        if name and (not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]{0,99}", name) or secret_in(name)):
            raise ValueError("give the name of an environment variable, not the key itself")
        return name

    @field_validator("key_header")
    @classmethod
    def _header(cls, name: str) -> str:
        if not re.fullmatch(r"[A-Za-z0-9-]{1,64}", name):
            raise ValueError("a header is named by letters, digits and dashes")
        return name.lower()

    @field_validator("extra")
    @classmethod
    def _no_secret(cls, extra: dict[str, Any]) -> dict[str, Any]:
        if secret_in(repr(extra)):
            raise ValueError("this looks like a key: name an environment variable in `key`")
        return extra


class LocalConfig(BaseModel):
    """A model of this machine as teacher: the starter tuned by `make demo` unless another is named."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    type: Literal["local"] = Field("local", description="a local transformers model")
    model: str = Field(
        "demo", description='folder of a run (its tuned model) or of a model, "starter", or a name on the hub'
    )
    batch: int = Field(256, ge=1, description="prompts answered together")


TeacherConfig = Annotated[EndpointConfig | LocalConfig, Field(discriminator="type")]
