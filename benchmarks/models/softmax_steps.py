"""How long a training step of the text generator is, and how much memory it needs, by K.

Each row is measured in a fresh process: the sampled softmax of the project; the full softmax
with the cheapest dense optimizer, as far as its scores fit in memory; and the same sampled
softmax on a Keras Embedding with Keras Adam, whose update reads and writes the whole table.
256 images a step, 64 dimensions, 8,192 candidates, and a tower of one small layer, so that the
queries decide. Then, for the sampled softmax, all that training does beside steps: it writes a
checkpoint, reads it back, and exports the unit vectors.

  ./run.sh bench softmax_steps --queries 100000,1000000,4000000
"""

import dataclasses
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence

import numpy as np

from schemas.base.errors import PhraseLensError
from schemas.console.flags import flag
from schemas.runs import command_line

BATCH, WIDTH, FEATURES, CANDIDATES, PAIRS = 256, 64, 64, 8192, 512
WARM_UP = 3
# Steps timed. The median of them counts.
TIMED = {"sampled": 50, "full": 3, "adam": 10}
NAMES = {
    "sampled": "sampled, row-wise Adagrad (ours)",
    "full": "full, dense Adagrad",
    "adam": "sampled, Keras Embedding + Keras Adam",
}
FULL_AT_MOST, ADAM_AT_LEAST = 1_000_000, 1_000_000


@dataclasses.dataclass(frozen=True)
class Config:
    queries: tuple[str, ...] = flag("Values of K.", default=("100000", "1000000", "4000000"))


@dataclasses.dataclass(frozen=True)
class Row:
    """One measurement.

    Attributes:
      kind: "sampled", "full" or "adam".
      queries: K.
      milliseconds: of a step, the median.
      peak_bytes: the most memory that the process had resident, all told.
      over_bytes: the same over what it had after importing TensorFlow and Keras.
      whole_bytes: like `over_bytes`, with checkpoint and export; "sampled" only.
    """

    kind: str
    queries: int
    milliseconds: float
    peak_bytes: int
    over_bytes: int
    whole_bytes: int | None

    @property
    def table_bytes(self) -> int:
        return self.queries * WIDTH * 4


def kinds(queries: int) -> list[str]:
    """What is measured at a K."""
    found = ["sampled"]
    if queries <= FULL_AT_MOST:
        found.append("full")
    if queries >= ADAM_AT_LEAST:
        found.append("adam")
    return found


def measure_steps(queries: Sequence[int]) -> list[Row]:
    """Measures every kind at every K, each in a process of its own.

    Raises:
      PhraseLensError: a process failed, for want of memory perhaps.
    """
    rows = []
    for count in queries:
        for kind in kinds(count):
            code = "from benchmarks.models.softmax_steps import measure; "
            code += f"measure({kind!r}, {count})"
            command = [sys.executable, "-c", code]
            done = subprocess.run(command, capture_output=True, text=True, encoding="utf-8")
            if done.returncode:
                print(done.stderr, file=sys.stderr)
                raise PhraseLensError(
                    f"{NAMES[kind]} at K = {count:,}", "to end well", "See above; is memory free?"
                )
            rows.append(Row(**json.loads(done.stdout.splitlines()[-1])))
    return rows


def measure(kind: str, queries: int) -> None:
    """Measures in this process, which must be fresh, and prints the row as JSON."""
    import keras  # noqa: F401
    import tensorflow as tf

    tf.matmul(tf.ones([8, 8]), tf.ones([8, 8]))
    base = peak()
    step, finish = {"sampled": sampled, "full": full, "adam": adam}[kind](queries)
    rng = np.random.default_rng(0)
    seconds = []
    for number in range(WARM_UP + TIMED[kind]):
        batch = batch_of(rng, queries, number)
        start = time.perf_counter()
        float(step(*batch))
        seconds.append(time.perf_counter() - start)
    stepped = peak()
    whole = None
    if finish:
        finish()
        whole = peak() - base
    milliseconds = 1000 * statistics.median(seconds[WARM_UP:])
    row = Row(kind, queries, milliseconds, stepped, stepped - base, whole)
    print(json.dumps(dataclasses.asdict(row)))


def peak() -> int:
    """The most memory that this process has had resident, in bytes (Linux).

    Not ru_maxrss of getrusage, in which a child starts from what its parent had.
    """
    with open("/proc/self/status", encoding="utf-8") as file:
        line = next(line for line in file if line.startswith("VmHWM:"))
    return int(line.split()[1]) * 1024


def batch_of(rng: np.random.Generator, queries: int, number: int) -> tuple[np.ndarray, ...]:
    """A batch as `Trainer.step` takes it: two queries an image, common ones often."""
    return (
        rng.normal(size=(BATCH, FEATURES)).astype(np.float32),
        np.repeat(np.arange(BATCH), PAIRS // BATCH),
        ((queries + 1) ** rng.random(PAIRS)).astype(np.int64) - 1,
        np.full(PAIRS, BATCH / PAIRS, np.float32),
        np.array([0, number], np.int32),
    )


Step = tuple[Callable, Callable[[], None] | None]


def sampled(queries: int) -> Step:
    import tensorflow as tf

    from model_code.models.text_generator import trainer as text_generator
    from model_code.models.text_generator.network import build_head

    tower = build_head(FEATURES, [], WIDTH)
    trainer = text_generator.Trainer(
        tower,
        lambda x, seed: x,
        queries,
        sampled_queries=CANDIDATES,
        temperature=0.0,
        learning_rate=1e-3,
        weight_decay=1e-4,
        query_learning_rate=0.05,
        steps=1000,
        seed=0,
    )

    def finish() -> None:
        checkpoint = tf.train.Checkpoint(table=trainer.table)
        with tempfile.TemporaryDirectory() as folder:
            checkpoint.read(checkpoint.write(f"{folder}/last")).assert_consumed()
            trainer.save_vectors(f"{folder}/query_vectors.npy")

    return trainer.step, finish


def full(queries: int) -> Step:
    """The whole matrix of scores, and a dense gradient applied in place."""
    import tensorflow as tf

    from model_code.models.text_generator import query_table
    from model_code.models.text_generator.network import build_head
    from model_code.models.text_generator.sampled_softmax import logits

    tower = build_head(FEATURES, [], WIDTH)
    table = tf.Variable(tf.random.stateless_normal([queries, WIDTH], [0, 0]))
    squares = tf.Variable(tf.fill([queries, WIDTH], 1e-6))

    @tf.function(reduce_retracing=True)
    def step(inputs, pair_rows, pair_ids, pair_weights, seed):
        with tf.GradientTape() as tape:
            vectors = query_table.unit_rows(table)
            scores = logits(tf.matmul(tower(inputs), vectors, transpose_b=True), 0.1)
            own = tf.gather_nd(scores, tf.stack([pair_rows, pair_ids], 1))
            log_z = tf.gather(tf.reduce_logsumexp(scores, 1), pair_rows)
            loss = tf.reduce_sum(pair_weights * (log_z - own)) / BATCH
        tf.raw_ops.ResourceApplyAdagradV2(
            var=table.handle,
            accum=squares.handle,
            lr=0.05,
            epsilon=1e-7,
            grad=tape.gradient(loss, table),
        )
        return loss

    return step, None


def adam(queries: int) -> Step:
    """The sampled softmax again, on a Keras layer that Keras trains."""
    import keras
    import tensorflow as tf

    from model_code.models.text_generator import query_table, sampled_softmax
    from model_code.models.text_generator.network import build_head

    tower = build_head(FEATURES, [], WIDTH)
    table = keras.layers.Embedding(queries, WIDTH)
    table.build()
    optimizer = keras.optimizers.Adam(1e-3)
    trained = [*tower.trainable_variables, *table.trainable_variables]
    optimizer.build(trained)
    candidates = sampled_softmax.Candidates(sampled_softmax.log_uniform(queries), CANDIDATES)

    @tf.function(reduce_retracing=True)
    def step(inputs, pair_rows, pair_ids, pair_weights, seed):
        ids, log_included = candidates.draw(seed, pair_ids)
        with tf.GradientTape() as tape:
            vectors = query_table.unit_rows(table(tf.concat([pair_ids, ids], 0)))
            loss = sampled_softmax.softmax_loss(
                tower(inputs),
                pair_rows=pair_rows,
                pair_ids=pair_ids,
                pair_weights=pair_weights,
                pair_vectors=vectors[:PAIRS],
                candidate_ids=ids,
                candidate_vectors=vectors[PAIRS:],
                log_included=log_included,
                temperature=0.1,
            )
        optimizer.apply(tape.gradient(loss, [v.value for v in trained]), trained)
        return loss

    return step, None


HEAD = """\
| K | step | ms | of K's least | times as long as ours | peak MiB | over TensorFlow's | \
in tables | with checkpoint and export |
|---:|---|---:|---:|---:|---:|---:|---:|---:|"""


def table(rows: Sequence[Row]) -> str:
    """The rows in Markdown; a step is also compared with its kind's at the least K."""
    ours = {row.queries: row.milliseconds for row in rows if row.kind == "sampled"}
    least = {row.kind: row.milliseconds for row in sorted(rows, key=lambda r: -r.queries)}
    lines = [HEAD]
    for row in rows:
        whole = row.whole_bytes and f"{row.whole_bytes / row.table_bytes:.2f}"
        lines.append(
            f"| {row.queries:,} | {NAMES[row.kind]} | {row.milliseconds:,.1f} "
            f"| {row.milliseconds / least[row.kind]:.2f} "
            f"| {row.milliseconds / ours[row.queries]:,.1f} "
            f"| {row.peak_bytes / 2**20:,.0f} | {row.over_bytes / 2**20:,.0f} "
            f"| {row.over_bytes / row.table_bytes:.2f} | {whole or '–'} |"
        )
    return "\n".join(lines)


def bench(config: Config) -> None:
    print(table(measure_steps([int(count) for count in config.queries])))


def run(argv: list[str] | None = None) -> int:
    return command_line.main(Config, "bench softmax_steps", __doc__, argv, bench)


if __name__ == "__main__":
    sys.exit(run())
