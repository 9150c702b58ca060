"""What the peers of `images_speed.py` share: their arguments, the rows, the clock and the RESULT line. Standard library only."""
import time
BEGAN = time.perf_counter()
import argparse, json, resource
from pathlib import Path

asking = argparse.ArgumentParser()
asking.add_argument("--model", required=True, help="a folder with a LLaVA model and its processor")
asking.add_argument("--data", required=True, help="JSON lines: image (a path), question, answer")
asking.add_argument("--work", required=True, help="a folder to write into")
asking.add_argument("--batch", type=int, default=8, help="rows of an optimiser step")
asking.add_argument("--lr", type=float, default=1e-4, help="0 only measures the loss, of every row at the same weights")
asking.add_argument("--dtype", choices=["fp32", "bf16"], default="fp32")
asking.add_argument("--packing", action="store_true")


def rows(path):
    return [json.loads(line) for line in Path(path).read_text(encoding="utf-8").splitlines()]


class Clock:
    """`step` at the start of every optimiser step, `done` after the last; the first step is warm-up."""

    def __init__(self):
        self.starts, self.busy, self.supervised, self.losses, self.end = [], [], [], [], 0.0

    def step(self, supervised):
        self.starts.append(time.perf_counter())
        self.busy.append(time.process_time())
        self.supervised.append(supervised)

    def done(self):
        self.end = time.perf_counter()
        self.busy.append(time.process_time())

    def result(self, images, before=0.0, **more):
        """before: processor seconds of preparing all rows, where that was not within the steps."""
        share = sum(self.supervised[1:]) / sum(self.supervised)
        seconds = self.end - self.starts[1] + before * share
        mean = sum(l * s for l, s in zip(self.losses, self.supervised)) / sum(self.supervised)
        processor = self.busy[-1] - self.busy[1] + before * share
        told = dict(images_s=round(images * share / seconds, 3), images_cpu_s=round(images * share / processor, 3), steps=len(self.starts),
                    supervised=sum(self.supervised), loss=round(mean, 5), first_loss=round(self.losses[0], 5), startup_s=round(self.starts[0] - BEGAN, 2),
                    prepared_s=round(before, 2), peak_rss_mb=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024, **more)
        print("RESULT " + json.dumps(told), flush=True)


def watch(clock):
    """Time every training_step of a transformers.Trainer, and note its loss."""
    import transformers
    inner = transformers.Trainer.training_step

    def training_step(self, model, inputs, *more, **named):
        labels = inputs["labels"]
        clock.step(int((labels != -100).sum()))
        clock.padded = getattr(clock, "padded", 0) + labels.numel()
        loss = inner(self, model, inputs, *more, **named)
        clock.losses.append(float(loss.detach()))
        return loss

    transformers.Trainer.training_step = training_step
