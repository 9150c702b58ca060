"""Images a second beside TRL and LLaMA-Factory: one LLaVA with random weights, the same rows, the same steps.

    make bench-images_speed                        full; about 10 minutes on a quiet core
    python benchmarks/images_speed.py --quick      one repetition of few rows: does everything run?

The rows are questions about pictures of the picture world, one each; the tower is frozen, projector and language model
are trained (LLaVA's second stage). Before the speed the loss of all rows at the same weights is compared: do all read
and learn the same tokens? DIDACT_PEERS names the folder that holds .venv-trl and .venv-llamafactory, if it is another.
Finished runs are kept in build/bench-images_speed: started again, it goes on.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
from pathlib import Path
from random import Random
from typing import Any

from engine import DIDACT, FACTORY, TRL, TUNED, median, python

ROOT = Path(__file__).resolve().parents[1]
OURS, WORK = ROOT / "benchmarks" / "peers", ROOT / "build" / "bench-images_speed"
MUST, AIM = 1.3, 2.0
KEYS = ("images_s", "images_cpu_s", "loss", "supervised", "positions", "startup_s", "peak_rss_mb")
SIDE, PATCH, VOCABULARY = 112, 14, 16384  # 64 places a picture; as many words as the engine's small fixture
TEMPLATE = (
    "{% for m in messages %}{% set c = m['content'] %}{% if m['role'] == 'user' %}USER: "
    "{% if c is string %}{{ c }}{% else %}{% for p in c %}{% if p['type'] == 'image' %}<image>{% else %}{{ p['text'] }}"
    "{% endif %}{% endfor %}{% endif %} ASSISTANT:{% else %}{% if c is string %}{{ c }}{% else %}{{ c[0]['text'] }}"
    "{% endif %}{{ eos_token }}{% endif %}{% endfor %}"
)
WAYS = {  # name -> whose environment, script, settings of its own
    "didact": (DIDACT, "didact_images.py", ""),
    "trl": (TRL, "trl_images.py", ""),
    "llamafactory": (FACTORY, "llamafactory_images.py", ""),
    "llamafactory packed": (FACTORY, "llamafactory_images.py", "--packing"),
}


def fixture(folder: Path, asked: list[dict[str, str]]) -> None:
    """A LLaVA of 29 M numbers that knows the rows' words: CLIP's tower of 4 layers, a projector, a Llama of 8."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import (
        CLIPImageProcessorPil,
        CLIPVisionConfig,
        LlamaConfig,
        LlavaConfig,
        LlavaForConditionalGeneration,
        LlavaProcessor,
        PreTrainedTokenizerFast,
    )

    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    special, letters = ["<|stop|>", "<|pad|>", "<image>"], pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=4096, special_tokens=special, initial_alphabet=letters, show_progress=False
    )
    backend.train_from_iterator((f"{row['question']}\n{row['answer']}" for row in asked), trainer)
    words = PreTrainedTokenizerFast(
        tokenizer_object=backend, eos_token="<|stop|>", pad_token="<|pad|>",
        extra_special_tokens={"image_token": "<image>"},
    )  # fmt: skip
    words.chat_template = TEMPLATE
    tower = CLIPVisionConfig(
        hidden_size=192, intermediate_size=768, num_hidden_layers=4, num_attention_heads=6, image_size=SIDE,
        patch_size=PATCH,
    )  # fmt: skip
    text = LlamaConfig(
        vocab_size=VOCABULARY, hidden_size=384, intermediate_size=1024, num_hidden_layers=8, num_attention_heads=6,
        max_position_embeddings=2048, bos_token_id=None, eos_token_id=words.eos_token_id,
        pad_token_id=words.pad_token_id,
    )  # fmt: skip
    torch.manual_seed(0)
    config = LlavaConfig(
        vision_config=tower, text_config=text, image_token_index=words.convert_tokens_to_ids("<image>"),
        image_seq_length=(SIDE // PATCH) ** 2,
    )  # fmt: skip
    LlavaForConditionalGeneration(config).save_pretrained(folder)
    image = CLIPImageProcessorPil(size={"shortest_edge": SIDE}, crop_size={"height": SIDE, "width": SIDE})
    settings = {"patch_size": PATCH, "vision_feature_select_strategy": "default", "num_additional_image_tokens": 1}
    LlavaProcessor(image, words, chat_template=TEMPLATE, **settings).save_pretrained(folder)


def questions(n: int) -> list[dict[str, str]]:
    """n rows over the tasks of the picture world with one picture each, as JSON lines, and their pictures."""
    from didact.starter.picture_tasks import rows, templates
    from didact.starter.scenes import world

    (WORK / "pictures").mkdir(parents=True, exist_ok=True)
    tasks = [name for name, told in world()["tasks"].items() if told.get("pictures") != 2]
    sources, pick, lines = {name: rows(name, n, 0) for name in tasks}, Random("images_speed"), []
    for number in range(n):
        name = tasks[number % len(tasks)]
        data = next(sources[name]).data
        rendered = pick.choice(templates(name)).render({**data, "image": "x"})
        path = WORK / "pictures" / f"{number}.png"
        path.write_bytes(data["image"] if isinstance(data["image"], bytes) else data["image"]["bytes"])
        asked = "".join(part.value for part in rendered.parts if part.kind == "text")
        lines.append({"image": str(path), "question": asked, "answer": rendered.answer})
    (WORK / f"rows-{n}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return lines


def run(way: str, size: int, dtype: str, rate: str, core: str) -> dict[str, Any]:
    """The RESULT of one process, or {"why": ...}."""
    who, script, more = WAYS[way]
    if not python(who).exists():
        return {"why": f"{python(who)} is missing: make bench-peers"}
    fixed = {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", **({} if who == DIDACT else TUNED)}
    paths = [str(ROOT / "src")] if who == DIDACT else []
    places = ["--model", WORK / "llava", "--data", WORK / f"rows-{size}.jsonl", "--work", WORK / "work"]
    asked = [*places, "--dtype", dtype, "--lr", rate]
    pin = ["taskset", "-c", core] if core else []
    try:
        done = subprocess.run(
            [*pin, str(python(who)), str(OURS / script), *map(str, asked), *more.split()],
            capture_output=True, text=True, timeout=600, cwd=WORK / "work",
            env={**os.environ, **fixed, "PYTHONPATH": os.pathsep.join(paths)},
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        return {"why": "took more than 600 s"}
    line = next((line for line in done.stdout.splitlines() if line.startswith("RESULT ")), "")
    if not line:
        return {"why": (done.stderr.strip().splitlines() or ["no RESULT line"])[-1][:300]}
    found: dict[str, Any] = json.loads(line[7:])
    return found


def collect(entries: list[tuple[str, str, str, str, int]], core: str, fresh: bool) -> dict[str, list[dict[str, Any]]]:
    """entries: name, way, precision, rate, rows, in their order; those in the log are not run again."""
    log = WORK / "runs.jsonl"
    if fresh:
        log.unlink(missing_ok=True)
    old = [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []
    found: dict[str, list[dict[str, Any]]] = {}
    dead: set[str] = set()
    for name, way, dtype, rate, size in entries:
        records, done = found.setdefault(name, []), [r for r in old if (r["name"], r["rows"]) == (name, size)]
        if name in dead:
            continue
        if len(done) > len(records):
            records.append(done[len(records)])
            continue
        record = {"name": name, "rows": size, **run(way, size, dtype, rate, core)}
        if "why" in record:
            dead.add(name)
            print(f"{name}: {record['why']}", flush=True)
            continue
        records.append(record)
        with log.open("a", encoding="utf-8") as handle:
            handle.write(json.dumps(record) + "\n")
        told = {key: record[key] for key in KEYS}
        print(f"  {name:30} {told}", flush=True)
    return found


def figures(found: dict[str, list[dict[str, Any]]], dtypes: list[str]) -> list[dict[str, Any]]:
    """The figures with their targets; a missing part makes the value null."""
    rows: list[dict[str, Any]] = []

    def add(name: str, value: float | None, ok: bool, **more: Any) -> None:
        shown = None if value is None else round(value, 4)
        rows.append({"name": f"images_speed.{name}", "value": shown, "ok": ok, **more})

    def speed(who: str, some: list[str]) -> float | None:
        """Of the fastest way of one system in these precisions."""
        ways = [f"{way}, {dtype}" for way in WAYS if way.startswith(who) for dtype in some]
        return max((s for way in ways if (s := median(found.get(way, []), "images_s"))), default=None)

    base = median(found.get("loss, didact", []), "loss")
    for who in ("trl", "llamafactory"):
        other = median(found.get(f"loss, {who}", []), "loss")
        gap = abs(other - base) / base if base and other else None
        add(f"loss_of_the_same_rows.{who}", gap, gap is not None and gap <= 1e-3, unit="relative", target=1e-3)
        for name, some in (("at_its_best", dtypes), *((dtype, [dtype]) for dtype in dtypes)):
            mine, theirs = speed("didact", some), speed(who, some)
            ratio = mine / theirs if mine and theirs else None
            add(f"against_{who}.{name}", ratio, bool(ratio and ratio >= MUST), unit="ratio", target=MUST, aim=AIM)
    return rows


def main() -> None:
    ask = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ask.add_argument("--reps", type=int, default=3)
    ask.add_argument("--rows", type=int, default=64)
    ask.add_argument("--core", default="0", help="the core to pin to; empty is no pinning")
    ask.add_argument("--fresh", action="store_true", help="forget the runs of before")
    ask.add_argument("--quick", action="store_true", help="one repetition of 24 rows")
    asked = ask.parse_args()
    size, reps, dtypes = (24, 1, ["bf16"]) if asked.quick else (asked.rows, asked.reps, ["bf16", "fp32"])
    (WORK / "work").mkdir(parents=True, exist_ok=True)
    if not (WORK / "llava" / "tokenizer.json").exists():
        fixture(WORK / "llava", questions(2000))
    questions(24)
    questions(size)
    entries = [(f"loss, {way}", way, "fp32", "0", 24) for way in ("didact", "trl", "llamafactory")]
    entries += [(f"{way}, {dtype}", way, dtype, "1e-4", size) for _ in range(reps) for dtype in dtypes for way in WAYS]
    found = collect(entries, asked.core, asked.fresh)
    for name, records in found.items():
        speeds = [record["images_s"] for record in records]
        if speeds:
            middle = median(records, "images_s")
            print(f"{name:30} {middle:8.2f} images/s [{min(speeds)}-{max(speeds)}], n={len(speeds)}")
    for row in figures(found, dtypes):
        if row["value"] is None:
            row["why"] = "a run it needs is missing or failed, see above"
        print("RESULT " + json.dumps(row))


if __name__ == "__main__":
    main()
