"""TRL with nothing set that it does not need to be told: its own defaults, as its first page has them.

The kit's script turns activation checkpointing off and takes the fused optimiser; a user who sets nothing has neither.
"""
import os, sys
sys.path.insert(0, os.path.join(os.environ["DIDACT_MATERIAL"], "bench", "peers"))
import common as C
a = C.args()
os.environ.update(HF_HUB_OFFLINE="1", TOKENIZERS_PARALLELISM="false")
C.threads()
import datasets
from transformers import AutoTokenizer
from trl import SFTConfig, SFTTrainer

datasets.disable_caching(); datasets.disable_progress_bars()
rows = C.rows(a.data, a.n, a.skip)
data = datasets.Dataset.from_list([{"prompt": C.prompt(row), "completion": row["output"]} for row in rows])
clock = C.Clock(); C.watch_trainer(clock)
# the work to be done and where, and no reports; all else is TRL's
config = SFTConfig(output_dir=a.work, per_device_train_batch_size=a.batch, num_train_epochs=1, max_length=a.max_len, learning_rate=a.lr,
                   seed=a.seed, use_cpu=True, report_to=[], save_strategy="no", disable_tqdm=True)
trainer = SFTTrainer(model=a.model, args=config, train_dataset=data, processing_class=AutoTokenizer.from_pretrained(a.model))
out = trainer.train(); clock.done()
told = {name: str(getattr(config, name)) for name in ("bf16", "gradient_checkpointing", "optim", "packing", "padding_free", "loss_type")
        if hasattr(config, name)}
clock.report("trl, nothing set", a, a.n, rows_per_step=a.batch, train_loss=round(out.training_loss, 4), settings=told)
