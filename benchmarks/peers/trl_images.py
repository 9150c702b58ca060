"""TRL's SFTTrainer on rows with a picture: prompt and completion, the loss on the completion, the tower frozen as in LLaVA.

Packing and padding-free are refused by TRL for rows with pictures, so this is its one way.
"""
import os
import picture_rows as P
a = P.asking.parse_args()
os.environ.update(HF_HUB_OFFLINE="1", TOKENIZERS_PARALLELISM="false")
import datasets, torch
from transformers import AutoModelForImageTextToText, AutoProcessor
from trl import SFTConfig, SFTTrainer

torch.set_num_threads(1)
datasets.disable_caching(); datasets.disable_progress_bars()
rows = P.rows(a.data)
data = datasets.Dataset.from_list([
    {"image": row["image"], "prompt": [{"role": "user", "content": row["question"]}],
     "completion": [{"role": "assistant", "content": row["answer"]}]} for row in rows
]).cast_column("image", datasets.Image())
model = AutoModelForImageTextToText.from_pretrained(a.model, dtype=torch.float32)
model.model.vision_tower.requires_grad_(False)
clock = P.Clock(); P.watch(clock)
config = SFTConfig(output_dir=a.work, per_device_train_batch_size=a.batch, num_train_epochs=1, learning_rate=a.lr, lr_scheduler_type="constant",
                   warmup_steps=0, max_length=None, use_cpu=True, bf16=a.dtype == "bf16", report_to=[], logging_steps=1000, save_strategy="no",
                   gradient_checkpointing=False, optim="adamw_torch_fused", disable_tqdm=True, dataloader_pin_memory=False, max_grad_norm=0.0)
trainer = SFTTrainer(model=model, args=config, train_dataset=data, processing_class=AutoProcessor.from_pretrained(a.model))
trainer.train(); clock.done()
clock.result(len(rows), positions=clock.padded)
