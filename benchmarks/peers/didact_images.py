"""didact on rows with a picture: the same prompt, answer and stop token as its peers see, the tower frozen.

Rows are rendered and pictures prepared before the first step; those seconds are added to those of the steps, for its
peers prepare pictures within them.
"""
import os, time
import picture_rows as P
P.asking.add_argument("--max-tokens", type=int, default=2048)
a = P.asking.parse_args()
os.environ.update(HF_HUB_OFFLINE="1", TOKENIZERS_PARALLELISM="false")
import json
from pathlib import Path
import torch
torch.set_num_threads(1)
from didact import lean, tune as engine
lean.own_process()  # as the command line says of itself
from didact.instance import Instance, Message, Origin, Part
from didact.methods.full import FullConfig
from didact.model import load

loaded = load(a.model, device="cpu")


def instance(row, number):
    asked = (Part(row["image"], "input", "image"), Part(row["question"], "instruction"))
    return Instance.of((Message("user", asked), Message("assistant", (Part(row["answer"], "answer"),))), Origin(a.data, number))


began = time.process_time()
data = loaded.renderer.render_all([instance(row, number) for number, row in enumerate(P.rows(a.data), 1)])
seconds = time.process_time() - began
(Path(a.work) / "lengths.json").write_text(json.dumps([len(tokens.ids) for tokens in data]))
clock = P.Clock()


def report(step):
    clock.supervised[-1] = step.supervised_tokens
    clock.losses.append(step.loss)
    clock.step(0) if step.step < step.steps else clock.done()


config = engine.TuneConfig(epochs=1, batch_size=a.batch, max_tokens=a.max_tokens, max_length=512, learning_rate=a.lr or 1e-30, schedule="constant",
                           warmup=0, clip=0, weight_decay=0, precision=a.dtype)
engine.tune(loaded, FullConfig(parts=["language", "projector"]), data, config, report=report, resumed=lambda step: clock.step(0))
clock.result(len(data), before=seconds, positions=sum(len(tokens.ids) for tokens in data))
