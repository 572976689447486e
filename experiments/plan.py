"""What the study runs: which networks, on which data, with which seeds. Values and the list of runs, nothing else."""

from dataclasses import asdict, dataclass
from typing import Any

KS = (1, 2, 3, 5, 10, 20, 50, 512)  # 512 is N: all votes, a dense head by another name
SEEDS = (0, 1, 2)
ABLATED_K = 5
RENDERER_SEEDS = (1, 2)  # beside 0, whose scenes all other runs see
# Of the elastic net: the smaller C, the fewer weights are not zero. The share of the L1 penalty is L1_RATIO.
ELASTIC_NET_C = (0.002, 0.003, 0.005, 0.01, 0.05)
L1_RATIO = 0.9

# Variations of the DKA head, and the name of each in `models.heads.HEADS`.
VARIANTS = {"straight-through": "straight_through", "no bias": "no_bias", "by magnitude": "by_magnitude"}


@dataclass(frozen=True)
class Data:
    """A data set of the study, and how networks are trained on it.

    Attributes:
        size: side of the images that the networks see, pixels.
        epochs, batch_size, lr, small_share: as in `loader.datasets.Schedule`; one cycle of the learning rate.
        crop_scale: share of an image that a random training crop covers.
        train: how many of the training images are used, from the first; None for all.
        of: the data set's name in `settings.DATASETS`, where it is not the key in `FULL`.
    """

    size: int
    epochs: int
    batch_size: int
    lr: float
    small_share: float
    crop_scale: tuple[float, float]
    train: int | None = None
    of: str = ""


TRAINED_OUT = "mini_places_trained_out"
# Chosen so that the whole study takes about two hours on two cores, and two more for the networks that are trained out.
FULL = {
    "mini_places": Data(96, 7, 64, 0.05, 0.7, (0.5, 1.0)),
    "fashion_mnist": Data(32, 1, 128, 0.1, 0.0, (0.8, 1.0), train=30_000),
    TRAINED_OUT: Data(128, 24, 32, 0.03, 2 / 3, (0.5, 1.0), of="mini_places"),  # the shipped schedule, smaller images
}
QUICK = {"mini_places": Data(64, 1, 32, 0.04, 0.0, (0.5, 1.0))}


@dataclass(frozen=True)
class Run:
    """One process of the study: a network that is trained and measured, or rivals fitted on a dense one's features.

    Attributes:
        dataset: a key of `FULL`.
        head: 'dense' (whose process measures its pruned rivals too), 'dka', or 'elastic net', fitted on the frozen
            features of the dense network of the same seed; or 'untrained', a network whose units are only dissected.
        k: of a DKA head.
        seed: of training.
        variant: one of `VARIANTS`, 'float32' (no autocast), 'renderer seed n', or '' for the plain study.
    """

    dataset: str
    head: str
    k: int | None
    seed: int
    variant: str = ""

    @property
    def name(self) -> str:
        """For people and folders."""
        parts = (self.dataset, self.head, self.k and f"k{self.k}", f"seed{self.seed}", self.variant)
        return "-".join(str(part).replace(" ", "_") for part in parts if part)

    def record(self) -> dict[str, Any]:
        """As in the results' rows."""
        return asdict(self)


def plan(quick: bool = False) -> list[Run]:
    """All runs, in their order: every comparison is whole for a seed before the next seed begins."""
    if quick:
        return [
            Run("mini_places", "dense", None, 0),
            Run("mini_places", "dka", 5, 0),
            Run("mini_places", "elastic net", None, 0),
        ]
    runs = []
    for seed in SEEDS:
        for dataset in ("mini_places", "fashion_mnist"):
            runs.append(Run(dataset, "dense", None, seed))
            runs += [Run(dataset, "dka", k, seed) for k in KS]
            runs.append(Run(dataset, "elastic net", None, seed))
    for seed in SEEDS:
        runs += [Run("fashion_mnist", "dka", ABLATED_K, seed, variant) for variant in VARIANTS]
        runs.append(Run("mini_places", "dka", ABLATED_K, seed, "float32"))
    for renderer_seed in RENDERER_SEEDS:
        variant = f"renderer seed {renderer_seed}"
        runs += [Run("mini_places", "dense", None, 0, variant), Run("mini_places", "dka", ABLATED_K, 0, variant)]
    runs += [Run("mini_places", "untrained", None, seed) for seed in SEEDS]
    for seed in SEEDS:
        runs += [Run(TRAINED_OUT, "dense", None, seed), Run(TRAINED_OUT, "dka", ABLATED_K, seed)]
        runs.append(Run(TRAINED_OUT, "untrained", None, seed))
    return runs
