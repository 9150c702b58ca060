"""LLaMA-Factory on rows with a picture, by its `llava` template; the tower frozen, the projector trained.

Its template begins with a sentence of Vicuna's, which is taken out, so that all read the same tokens.
"""
import os
import picture_rows as P
a = P.asking.parse_args()
os.environ.update(HF_HUB_OFFLINE="1", TOKENIZERS_PARALLELISM="false", DISABLE_VERSION_CHECK="1", CUDA_VISIBLE_DEVICES="")
import importlib.machinery, json, shutil, sys, types
from pathlib import Path
import torch, transformers
torch.set_num_threads(1)
try:
    import torchaudio
except Exception:  # imported at its top, and of no use for pictures
    made = types.ModuleType("torchaudio"); made.__spec__ = importlib.machinery.ModuleSpec("torchaudio", None); sys.modules["torchaudio"] = made
from llamafactory.data.template import TEMPLATES
from llamafactory.train.tuner import run_exp
TEMPLATES["llava"].default_system = ""
rows, work = P.rows(a.data), Path(a.work).absolute()
place, out = work / "lf-data", work / "lf-out"
shutil.rmtree(out, ignore_errors=True); place.mkdir(parents=True, exist_ok=True)
(place / "rows.json").write_text(json.dumps([
    {"messages": [{"role": "user", "content": "<image>" + row["question"]}, {"role": "assistant", "content": row["answer"]}],
     "images": [row["image"]]} for row in rows]))
tags = {"role_tag": "role", "content_tag": "content", "user_tag": "user", "assistant_tag": "assistant"}
(place / "dataset_info.json").write_text(json.dumps({"rows": {
    "file_name": "rows.json", "formatting": "sharegpt", "columns": {"messages": "messages", "images": "images"}, "tags": tags}}))
clock = P.Clock(); P.watch(clock)
longest, batch = 512, a.batch
if a.packing:  # as many packed rows as hold about --batch rows: the same rows for each optimiser step
    tokens = json.loads((work / "lengths.json").read_text())
    batch = max(1, round(a.batch * (sum(tokens) / len(tokens)) / (longest * 0.95)))
config = dict(model_name_or_path=str(Path(a.model).absolute()), stage="sft", do_train=True, finetuning_type="full", template="llava", dataset="rows",
              dataset_dir=str(place), cutoff_len=longest, overwrite_cache=True, preprocessing_num_workers=1, output_dir=str(out),
              per_device_train_batch_size=batch, gradient_accumulation_steps=1, num_train_epochs=1.0, learning_rate=a.lr, lr_scheduler_type="constant",
              warmup_ratio=0.0, bf16=a.dtype == "bf16", report_to="none", logging_steps=1000, save_strategy="no", use_cpu=True, packing=a.packing,
              neat_packing=a.packing, optim="adamw_torch_fused", disable_tqdm=True, dataloader_num_workers=0, max_grad_norm=0.0, flash_attn="sdpa",
              disable_gradient_checkpointing=True, save_only_model=True, freeze_vision_tower=True, freeze_multi_modal_projector=False)


class End(transformers.TrainerCallback):
    def on_train_end(self, *given, **named):
        clock.done()


run_exp(config, callbacks=[End()])
clock.result(len(rows), positions=clock.padded, rows_per_step=batch)
