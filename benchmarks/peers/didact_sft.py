"""didact on the rows and the clock of the kit: the same prompt, completion and stop tokens as its peers see."""
import os, sys, time
sys.path.insert(0, os.path.join(os.environ["DIDACT_MATERIAL"], "bench", "peers"))
import common as C
a = C.args(no_share=dict(action="store_true", help="compute shared prompt beginnings again for each row"),
           max_tokens=dict(type=int, default=2048), compile=dict(action="store_true"))
os.environ.update(HF_HUB_OFFLINE="1", TOKENIZERS_PARALLELISM="false")
from dataclasses import replace
from pathlib import Path
C.threads()
from didact import lean, prepare, tune as engine
lean.own_process()  # as the command line says of itself
from didact.instance import Instance, Message, Origin, Part
from didact.methods.full import FullConfig
from didact.methods.lora import LoraConfig
from didact.model import load

template = Path(a.work); template.mkdir(parents=True, exist_ok=True); template /= "plain.jinja"
template.write_text("{% for m in messages %}{{ m['content'] }}{% if m['role'] == 'assistant' %}{{ eos_token }}{% endif %}{% endfor %}")
loaded = load(a.model, chat_template=str(template), device="cpu")


def instance(row, i):
    asked, said = Part(C.prompt(row), "instruction"), Part(row["output"], "answer")
    return Instance.of((Message("user", (asked,)), Message("assistant", (said,))), Origin(a.data, i))


instances = [instance(row, i) for i, row in enumerate(C.rows(a.data, a.n, a.skip), 1)]
data = [replace(t, ids=t.ids[:a.max_len], weights=t.weights[:a.max_len]) for t in loaded.renderer.render_all(instances)]
if a.no_share:
    settle = prepare.settle
    prepare.settle = lambda *x: replace(settle(*x), share=False)
settings = dict(epochs=1, batch_size=a.batch, max_tokens=a.max_tokens, max_length=a.max_len, learning_rate=a.lr, schedule="constant",
                warmup=0, clip=0, precision=a.dtype, seed=a.seed)
if a.compile: settings["compile"] = True
clock, losses = C.Clock(), []


def report(step):
    clock.sup[-1] = step.supervised_tokens
    clock.pos[-1] = clock.real[-1] = round(step.tokens_per_second * (time.perf_counter() - clock.t[-1]))  # no padding
    losses.append(step.loss * step.supervised_tokens)
    if step.step < step.steps:
        clock.step(0, 0, 0)
    else:
        clock.done()


method = LoraConfig(rank=a.lora) if a.lora else FullConfig()
engine.tune(loaded, method, data, engine.TuneConfig(**settings), report=report, resumed=lambda step: clock.step(0, 0, 0))
total = sum(len(t.ids) for t in data)
clock.report("didact", a, a.n, train_loss=round(sum(losses) / sum(clock.sup), 4), tokens=total)
