"""didact's data preparation: render, tokenise, mask, pack; the same rows as the kit's tokenize_pack.py, CPU seconds."""
import argparse, json, os, resource, sys, time
p = argparse.ArgumentParser(); p.add_argument("--model", required=True); p.add_argument("--data", required=True); p.add_argument("--n", type=int, default=52002); p.add_argument("--max-len", type=int, default=512); p.add_argument("--check", action="store_true"); p.add_argument("--work", default="."); a = p.parse_args()
os.environ.update(HF_HUB_OFFLINE="1", TOKENIZERS_PARALLELISM="false")
sys.path.insert(0, os.path.join(os.environ["DIDACT_MATERIAL"], "bench", "peers"))
import common as C
from transformers import AutoTokenizer
from didact.instance import Instance, Message, Origin, Part
from didact.pack import best_fit
from didact.render import Renderer
rows = C.rows(a.data, a.n); tokenizer = AutoTokenizer.from_pretrained(a.model)
tokenizer.chat_template = "{% for m in messages %}{{ m['content'] }}{% if m['role'] == 'assistant' %}{{ eos_token }}{% endif %}{% endfor %}"
renderer = Renderer(tokenizer)
t0, c0 = time.perf_counter(), time.process_time()
instances = [Instance.of((Message("user", (Part(C.prompt(r), "instruction"),)), Message("assistant", (Part(r["output"], "answer"),))), Origin(a.data, i)) for i, r in enumerate(rows, 1)]
data = renderer.render_all(instances)
if a.check: renderer.check_all(instances, data)
packed = best_fit(range(len(data)), [min(len(t.ids), a.max_len) for t in data], a.max_len)
cpu = time.process_time() - c0
print("RESULT " + json.dumps(dict(how="didact" + (" with proof" if a.check else ""), n=len(rows), s=round(time.perf_counter() - t0, 2), cpu_s=round(cpu, 3), rows_cpu_s=round(len(rows) / cpu), packed_rows=len(packed), peak_rss_mb=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)))
