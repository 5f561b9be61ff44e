"""A training run of the text generator on made features, in a process of its own.

  python -m tests.support.processes.train_on_devices FOLDER --devices=2 --queries=1003 --epochs=4

Goes on where an earlier run in FOLDER was killed; `--kill_at` kills it as `kill -9` does.
Writes FOLDER/done-0.npz: the loss of each step, and the vectors of the queries.
"""

import argparse
import os
import signal
import sys

import numpy as np

from model_code.models.text_generator import network, query_table, sampled_softmax
from model_code.models.text_generator import trainer as text_generator
from model_code.runtime import training

IMAGES, FEATURES, WIDTH, BATCH, STEPS = 512, 24, 16, 32, 6


def run(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder")
    parser.add_argument("--devices", default="1")
    parser.add_argument("--queries", type=int, default=1003)
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--kind", default="log_uniform")
    parser.add_argument("--own_queries", default="share")
    parser.add_argument("--kill_at", type=int, default=-1, help="a step of the whole run")
    args = parser.parse_args(argv)
    devices = query_table.devices(args.devices)
    losses, vectors = train(devices, args)
    done = os.path.join(args.folder, f"done-{devices.part[0]}.npz")
    np.savez(done, losses=losses, vectors=vectors)


def train(devices: query_table.Devices, args: argparse.Namespace) -> tuple[np.ndarray, np.ndarray]:
    training.set_seed(0)
    rng = np.random.default_rng(0)
    features = rng.normal(size=(IMAGES, FEATURES)).astype(np.float32)
    # Two to four queries an image, some common and most rare.
    owned = [
        np.unique((args.queries ** rng.random(4)).astype(int) % args.queries) for _ in range(IMAGES)
    ]
    flat = np.concatenate(owned)
    images = np.bincount(flat, minlength=args.queries)
    candidates = sampled_softmax.candidates(
        args.kind,
        min(200, args.queries // 4),
        0.75,
        clicks=images + 0.1,
        images=images,
        rows=IMAGES,
        batch_size=BATCH,
    )
    trainer = text_generator.Trainer(
        network.build_head(FEATURES, [20], WIDTH),
        lambda x, seed: x,
        args.queries,
        sampled_queries=candidates,
        temperature=0.0,
        learning_rate=1e-2,
        weight_decay=1e-4,
        query_learning_rate=0.05,
        steps=args.epochs * STEPS,
        seed=0,
        own_queries=args.own_queries,
        devices=devices,
    )
    place, parts = devices.part

    def batches(epoch: int):
        order = training.epoch_order(0, epoch, IMAGES)
        for step in range(STEPS):
            if (epoch - 1) * STEPS + step == args.kill_at:
                os.kill(os.getpid(), signal.SIGKILL)
            rows = order[step * BATCH : (step + 1) * BATCH]
            mine = rows[place * BATCH // parts : (place + 1) * BATCH // parts]
            counts = np.array([len(owned[row]) for row in rows])
            yield (
                features[mine],
                np.repeat(np.arange(BATCH), counts),
                np.concatenate([owned[row] for row in rows]),
                np.repeat(1 / counts, counts).astype(np.float32),
                np.array([0, epoch * STEPS + step], np.int32),
            )

    losses: list[float] = []

    def step(*batch):
        losses.append(trainer.step(*batch))
        return losses[-1]

    history = training.fit(
        "test",
        os.path.join(args.folder, f"part-{place}"),
        trainer.state,
        batches,
        step,
        evaluate=lambda: {f"step_{i}": float(loss) for i, loss in enumerate(losses[-STEPS:])},
        epochs=args.epochs,
        steps_per_epoch=STEPS,
        monitor="loss",
        maximize=False,
        patience=args.epochs,
    )
    curve = [[row[f"step_{i}"] for i in range(STEPS)] for row in history.epochs]
    return np.concatenate(curve), trainer.vectors()


if __name__ == "__main__":
    sys.exit(run())
