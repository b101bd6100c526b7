"""Segments learnt by secure sums beside k-means on the pooled rows: agreement, and at what noise.

    python -m benchmarks.segmentation [--enterprises 50] [--customers 200] [--seeds 3]

Agreement is the adjusted Rand index (1: the same segments, 0: chance) of the federation's segments
and those of scikit-learn's k-means (the best of 20 starts) of all training rows, in the space that
exact histograms give. Sums are taken in this process, with the noise of the run's plan, and without
masks, which cancel exactly.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Mapping
from functools import partial
from pathlib import Path

import numpy as np
from sklearn.cluster import KMeans
from sklearn.metrics import adjusted_rand_score

from fgcif_flwr.config import RunConfig, unflatten
from fgcif_flwr.data.consortium import Consortium, load_consortium
from fgcif_flwr.data.features import CategoricalTarget
from fgcif_flwr.data.schema import load_schema
from fgcif_flwr.enterprise.private_tasks import PrivateTasks
from fgcif_flwr.enterprise.tasks import Tasks
from fgcif_flwr.federation.private_plan import plan_of, with_noise
from fgcif_flwr.federation.segmentation_releases import COLUMNS, chosen_features
from fgcif_flwr.federation.session import SessionSettings
from fgcif_flwr.federation.task_input import ArrayMap
from fgcif_flwr.models.network import parameter_count
from fgcif_flwr.models.segment_learning import space_of
from fgcif_flwr.models.segmentation import Reals, Segmentation
from fgcif_flwr.privacy.noise import cryptographic_generator
from fgcif_flwr.privacy.plan import PrivacyPlan
from server_app.segments import learn_segments
from server_app.sums import TaskSums

TARGET = "group"
PRIVATE: Mapping[str, object] = {
    "privacy.unit": "customer",
    "privacy.delta": 1e-5,
    "privacy.clipping": "automatic",
    "training.algorithm": "fedsgd",
    "training.server_optimizer": "momentum",
}


def with_learned_target(schema_name: str, segments: int, directory: Path) -> Path:
    """Write a built-in schema with a learned target of so many classes; return the file."""
    schema = load_schema(schema_name)
    classes = tuple(f"segment-{number}" for number in range(1, segments + 1))
    learned = CategoricalTarget(name=TARGET, classes=classes, source="learned")
    file = directory / f"{schema_name}-{segments}.toml"
    agreed = schema.model_copy(update={"targets": (*schema.targets, learned)})
    file.write_text(agreed.to_toml(), encoding="utf-8")
    return file


def summed_here(
    consortium: Consortium, config: RunConfig, plan: PrivacyPlan | None, task: str, arrays: ArrayMap
) -> TaskSums:
    """Sum a task over all enterprises in this process."""
    layout, houses = consortium.layout, consortium.enterprises
    if plan is None:
        values = [Tasks(config, layout, rows).compute(task, arrays) for rows in houses]
        sums = {name: sum(one[name] for one in values) for name in values[0]}
        return TaskSums(sums, dict.fromkeys(sums, 0.0), len(houses))
    mechanism = plan.release(task).mechanism
    sharers, generator = mechanism.sharers(plan.honest), cryptographic_generator()
    total = sum(
        mechanism.sum.encode(
            PrivateTasks(config, layout, rows).contributions(task, arrays), sharers, generator
        )
        for rows in houses
    )
    blocks = mechanism.sum.blocks
    ends = np.cumsum([block.size for block in blocks])[:-1]
    parts = np.split(np.asarray(total, np.float64), ends)
    named = {block.name: part for block, part in zip(blocks, parts, strict=True)}
    deviations = {
        block.name: mechanism.sum.noise_deviation(block.name, len(houses), sharers)
        for block in blocks
    }
    return TaskSums(mechanism.sum.decode(named), deviations, len(houses))


def learnt(config: RunConfig, consortium: Consortium) -> Segmentation:
    """Learn the segments of a configuration over these rows."""
    plan = None
    if config.privacy.unit != "none":
        size = parameter_count(consortium.layout, config.model)
        secure_sum = SessionSettings.of(config).parameters(config.run.enterprises)
        config = with_noise(config, consortium.layout, size, secure_sum)
        plan = plan_of(config, consortium.layout, size, secure_sum.honest_in_any_sum)
    summed = partial(summed_here, consortium, config, plan)
    segmentation = learn_segments(summed, config, consortium.schema, plan)
    assert segmentation is not None
    return segmentation


def pooled_labels(config: RunConfig, consortium: Consortium, segments: int) -> Reals:
    """Return the labels of scikit-learn's k-means of all training rows together."""
    chosen = chosen_features(config, consortium.layout)
    plain = config.model_copy(update={"privacy": RunConfig().privacy})
    columns = summed_here(consortium, plain, None, COLUMNS, {}).values
    space = space_of(list(columns.values()), 0.0, [one.lower_is_better for one in chosen])
    coordinates, _ = space.coordinates(chosen, consortium.pooled("train"))
    return np.asarray(KMeans(segments, n_init=20, random_state=0).fit_predict(coordinates))


def main() -> None:
    """Print agreement with pooled k-means for each guarantee."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--enterprises", type=int, default=50)
    parser.add_argument("--customers", type=int, default=200, help="mean of an enterprise")
    parser.add_argument("--segments", type=int, default=4)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--schema", default="simulated")
    parser.add_argument("--table", default="simulated")
    parser.add_argument("--unit", default="customer", choices=("customer", "enterprise"))
    chosen = parser.parse_args()
    print("| guarantee | agreement (adjusted Rand) | smallest segment |\n|---|---|---|")
    with tempfile.TemporaryDirectory() as directory:
        schema = with_learned_target(chosen.schema, chosen.segments, Path(directory))
        for epsilon in ("none", 10.0, 3.0, 1.0, 0.3):
            scores, smallest = [], []
            for seed in range(chosen.seeds):
                flat: dict[str, object] = {
                    "run.seed": seed,
                    "run.enterprises": chosen.enterprises,
                    "data.schema": str(schema),
                    "data.table": chosen.table,
                    "data.partition": "column:enterprise" if chosen.table == "simulated" else "iid",
                    "simulator.customers": chosen.customers,
                    "segmentation.target": TARGET,
                }
                if epsilon != "none":
                    flat |= {**PRIVATE, "privacy.epsilon": epsilon, "privacy.unit": chosen.unit}
                    if chosen.unit == "enterprise":
                        flat |= {"privacy.clipping": "fixed", "run.rounds": 20}
                config = unflatten(flat)
                consortium = load_consortium(config)
                segmentation = learnt(config, consortium)
                own = segmentation.assign(consortium.layout, consortium.pooled("train"))
                reference = pooled_labels(config, consortium, chosen.segments)
                scores.append(adjusted_rand_score(reference, own))
                smallest.append(np.bincount(own[own >= 0], minlength=chosen.segments).min())
            mean, low = float(np.mean(scores)), float(np.min(scores))
            name = "exact" if epsilon == "none" else f"epsilon {epsilon:g} ({chosen.unit})"
            print(f"| {name} | {mean:.3f} (least {low:.3f}) | {min(smallest)} |", flush=True)


if __name__ == "__main__":
    main()
