"""The type of every JSON file: explain.json, routes.json, faithfulness.json, chance.json, and a comparison of tallies.

The field names and meanings of explain.json are a contract; everything that a page or a figure shows is in these files.
Class numbers count from 0, unit numbers from 1. (Training's own train.jsonl is `training.runs.EpochRecord`.)
"""

from typing import Any, TypedDict

# --- parts of explain.json ----------------------------------------------------------------------------------------


class UnitRecord(TypedDict):
    """A unit and what it responds to.

    Attributes:
        unit: its number, from 1.
        label: the best concept's label without Broden's suffix; '' if there is none.
        category: the concept's category.
        iou: how well the unit and the concept agree, 0 to 1.
    """

    unit: int
    label: str
    category: str
    iou: float


class Without(TypedDict):
    """What the network says when one unit is silent.

    Attributes:
        probability: of the explained class, 0 to 1.
        prediction: the most probable class.
        prediction_name: its name.
    """

    probability: float
    prediction: int
    prediction_name: str


class _UnitVote(UnitRecord):
    vote: float
    percent: float
    share: float
    cumulative: float
    active: bool


class UnitVote(_UnitVote, total=False):
    """A unit's vote for the explained class.

    Attributes:
        vote: v = pooled feature * weight, signed.
        percent: 100 * v / sum of |v| over all units (the authors' figure).
        share: 100 * v / sum of |v| over the chosen units; 0 if this one was not chosen.
        cumulative: sum of |share| of this and all larger votes.
        active: whether the vote was chosen, and so is part of the score.
        without: the network's answer without this unit.
    """

    without: Without


class Others(TypedDict):
    """The chosen votes that are not listed one by one.

    Attributes:
        count: how many.
        vote: their sum.
        share: sum of their |share|.
    """

    count: int
    vote: float
    share: float


class Score(TypedDict):
    """A class score as a sum: the active units' votes + others + bias = logit.

    Attributes:
        logit: the score.
        bias: of the class.
        units: the largest votes, the largest first.
        others: the chosen ones beyond these.
    """

    logit: float
    bias: float
    units: list[UnitVote]
    others: Others


class RivalVote(UnitRecord):
    """A vote in a contest of classes.

    Attributes:
        vote: signed.
        active: whether it was chosen.
        also: names of the other contestants whose routes have this unit too.
    """

    vote: float
    active: bool
    also: list[str]


# `class` is a keyword: these types cannot be written as classes.
Guess = TypedDict("Guess", {"class": int, "name": str, "probability": float})
"""A class and its probability."""

Contestant = TypedDict(
    "Contestant",
    {
        "class": int,
        "name": str,
        "roles": list[str],
        "probability": float,
        "logit": float,
        "bias": float,
        "units": list[RivalVote],
        "others": Others,
    },
)
"""A class beside its rivals; `roles`: predicted, runner-up, true. The rest as in `Score`."""


class ImageCurve(TypedDict):
    """An image after 0, 1, ... silenced (or kept) units.

    Attributes:
        probability: of the explained class, 0 to 1.
        prediction: the most probable class.
        prediction_name: its name.
    """

    probability: list[float]
    prediction: list[int]
    prediction_name: list[str]


class Ablation(TypedDict):
    """What silencing does to an image.

    Attributes:
        deletion: the units with the largest votes, silenced one after the other.
        insertion: these kept, all others silenced.
        random: as many active units at random, silenced one after the other.
    """

    deletion: ImageCurve
    insertion: ImageCurve
    random: ImageCurve


class Prediction(TypedDict):
    """What the network says of an image.

    Attributes:
        target, target_name: the true class; None where it is unknown.
        prediction, prediction_name: the most probable class.
        probability: of the prediction, 0 to 1.
        unsure: whether that is below `settings.UNSURE_BELOW`.
        explained, explained_name: the class whose score is taken apart.
        ranking: the most probable classes.
    """

    target: int | None
    target_name: str | None
    prediction: int
    prediction_name: str
    probability: float
    unsure: bool
    explained: int
    explained_name: str
    ranking: list[Guess]


class MapScale(TypedDict):
    """The one scale of an image's vote maps.

    Attributes:
        palette: 'votes', from zero; 'signed', from `-largest`, if a map is negative somewhere.
        largest: the greatest absolute value at a position, of all listed units.
        height, width: positions of a map.
    """

    palette: str
    largest: float
    height: int
    width: int


class ExplanationRecord(Prediction, Score):
    """A prediction, and the explained class's score as a sum.

    Attributes:
        contest: the prediction beside the runner-up, and the true class if it is another.
        map_scale: of the listed units' vote maps; None if there are none.
    """

    contest: list[Contestant]
    map_scale: MapScale | None


class ImageVariety(TypedDict):
    """How different the listed units that are active in an image are, over the images of routes.json.

    Attributes:
        units: how many these are.
        effective: how many different ones they are worth, as of `explain.variety.effective_number`; 1 to `units`.
        groups: their numbers, in groups of near-duplicates; most are alone in theirs.
    """

    units: int
    effective: float
    groups: list[list[int]]


class ComparedImage(Prediction, Score):
    """What the network of --compare says of the same image; of the class that it explains itself.

    Attributes:
        agree: whether both networks predict the same class.
        map_scale: of its listed units' vote maps; None if there are none.
        overlays: path of the image with its maps, relative to explain.json.
    """

    agree: bool
    map_scale: MapScale | None
    overlays: str


class _ImageMore(TypedDict, total=False):
    variety: ImageVariety
    compared: ComparedImage


class ImageRecord(ExplanationRecord, _ImageMore):
    """An entry of explain.json's `images`.

    Attributes:
        file: path of the image.
        index: its place in the validation set; None for a user's own file.
        overlays: path of the image with its heat maps, relative to explain.json.
        ablation: what silencing units does.
        variety: of its units; absent where there are too few images to know.
        compared: what the network of --compare says of it; absent without one.
    """

    file: str
    index: int | None
    overlays: str
    ablation: Ablation


class UnitEvidence(TypedDict):
    """What is known of a unit beyond its label and IoU; None where it is not at hand.

    Attributes:
        unit: its number, from 1.
        ceiling: the greatest IoU that its masks and its label can have, by their sizes (agreement.csv).
        binds: whether this ceiling is so low that the IoU says little, as of `explain.agreement.ceiling_binds`.
        auroc: how well its activation tells images with the label from those without (agreement.csv), 0 to 1.
        chance: share of the null scores that reach its IoU (chance.json), 0 to 1.
        threshold: activation above which the unit is on (quantile.npy); the line in its maps.
        strip: path of a row of the images of its largest activations, relative to explain.json.
        tiles: how many images are in it.
    """

    unit: int
    ceiling: float | None
    binds: bool
    auroc: float | None
    chance: float | None
    threshold: float | None
    strip: str | None
    tiles: int


class Unreadable(TypedDict):
    """A file that was left out, and why."""

    file: str
    reason: str


class ReportMadeOf(TypedDict):
    """What a report was made of, for comparing it with other files.

    Attributes:
        weights: fingerprint of the network's weights, as of `models.snapshot.weights_fingerprint`.
        tally: the record of the tally that names the units, as of `util.made_of`; None if it has none.
        data: fingerprint of the class names, and of the validation images' names and classes.
    """

    weights: str
    tally: dict[str, Any] | None
    data: str


class MapRecord(TypedDict):
    """Where the units' heat maps come from.

    Attributes:
        layer: whose output they are, or are made of; None if there are none.
        about: the same in a sentence, for people.
        direct: whether the mean of a unit's map is its feature, so that a vote map sums to its vote.
    """

    layer: str | None
    about: str
    direct: bool


class ComparedNetwork(TypedDict):
    """The network of --compare.

    Attributes:
        arch, topk, trained_topk, modelfile, nd_result, feature_map: as in `Report`.
        weights: fingerprint of its weights.
        size: side of its input, pixels.
        agreeing: explained images of which both networks predict the same class.
        validation: as in `Report`; None without validation.
        agreement: share of the validation images of which both predict the same class, 0 to 1; None without validation.
    """

    arch: str
    topk: int | None
    trained_topk: int | None
    modelfile: str
    nd_result: str | None
    feature_map: MapRecord
    weights: str
    size: int
    agreeing: int
    validation: dict[str, float] | None
    agreement: float | None


class _Compared(TypedDict, total=False):
    compared: ComparedNetwork


class Report(_Compared):
    """explain.json.

    Attributes:
        arch: of the network.
        topk: K of the explanation; None for a dense head.
        trained_topk: K that the network was trained with; None for a dense head, or where the snapshot does not say.
        modelfile: path of the snapshot.
        nd_result: path of the tally that names the units; None without one.
        dataset: name of the data set.
        feature_map: where the units' heat maps come from.
        cam: what the maps of explain.html show: 'votes', or 'jet', the authors' heat maps.
        explain: 'prediction' or 'target': whose score is explained.
        images: one entry per explained image.
        units: one entry per unit of the network; those that are listed for an image, or are in the route of a class,
            have a strip.
        no_strips: why there are no images of the units, in a sentence; None if there are.
        unreadable: files that could not be read.
        validation: loss, top1, top5 (per cent), count and images_per_second; None without validation.
        made_of: which weights, tally and data.
        notices: what a reader must know before trusting the names of classes and units, in sentences.
        compared: the network of --compare; absent without one.
    """

    arch: str
    topk: int | None
    trained_topk: int | None
    modelfile: str
    nd_result: str | None
    dataset: str
    feature_map: MapRecord
    cam: str
    explain: str
    images: list[ImageRecord]
    units: list[UnitEvidence]
    no_strips: str | None
    unreadable: list[Unreadable]
    validation: dict[str, float] | None
    made_of: ReportMadeOf
    notices: list[str]


# --- routes.json --------------------------------------------------------------------------------------------------


class RouteUnit(UnitRecord):
    """A unit in the routes of a class.

    Attributes:
        frequency: share of the class's images that chose it, 0 to 1.
        mean_vote: its mean vote where it was chosen.
    """

    frequency: float
    mean_vote: float


Neighbour = TypedDict("Neighbour", {"class": int, "name": str, "similarity": float})
"""A class of similar route; similarity is the weighted Jaccard of the frequencies, 0 to 1."""

Served = TypedDict("Served", {"class": int, "name": str, "frequency": float, "mean_vote": float})
"""A class in whose routes a unit is."""

ClassRoute = TypedDict(
    "ClassRoute",
    {
        "class": int,
        "name": str,
        "images": int,
        "distinct_units": int,
        "overlap_within": float | None,
        "nearest": list[Neighbour],
        "units": list[RouteUnit],
        "accuracy": float | None,
    },
)
"""A class: `images` explained as it, `distinct_units` that they chose, mean Jaccard similarity of two of their routes,
`accuracy` on the images whose true class it is (0 to 1). None where there are no such images.
"""


class UnitRoutes(UnitRecord):
    """A unit that is in any route, and the classes it serves."""

    classes: list[Served]


class Overlap(TypedDict):
    """Mean Jaccard similarity of the routes of two images, of one class and of two; None where there are no pairs."""

    within: float | None
    between: float | None


class Order(TypedDict):
    """Classes and units in the order of the matrix: those with common routes together."""

    classes: list[int]
    units: list[int]


class RoutesRecord(TypedDict):
    """routes.json.

    Attributes:
        images: which images these are, in words.
        count: how many.
        topk: units chosen per image; all of them for a dense head.
        units_per_example: mean number of chosen units whose vote is not zero.
        distinct_units: units that were chosen at all.
        overlap: of routes.
        order: of the matrix.
        classes: by class number.
        units: by unit number, those in any route.
    """

    images: str
    count: int
    topk: int
    units_per_example: float
    distinct_units: int
    overlap: Overlap
    order: Order
    classes: list[ClassRoute]
    units: list[UnitRoutes]


# --- faithfulness.json --------------------------------------------------------------------------------------------


class Mean(TypedDict):
    """A mean over images and its 95 % bootstrap interval."""

    mean: float
    low: float
    high: float


class MeanCurve(TypedDict):
    """Mean curves over images.

    Attributes:
        probability: of the explained class after 0, 1, ... steps.
        area: under each image's curve, the steps scaled to 0..1.
        turned: share of images whose prediction is no longer that of step 0.
    """

    probability: list[Mean]
    area: Mean
    turned: list[float]


class Method(TypedDict):
    """A way to pick units: deletion silences them, insertion silences all others."""

    name: str
    deletion: MeanCurve
    insertion: MeanCurve


class FrozenRecord(TypedDict):
    """A head beside the same head frozen to its K largest weights per class, as of `explain.sparsity.Frozen`."""

    topk: int
    agreement: float
    accuracy: float | None
    frozen_accuracy: float | None


class SparsityRecord(TypedDict):
    """How sparse the head is, and whether it chooses. Accuracies and shares are from 0 to 1; None without true classes.

    Attributes:
        topk: K, votes that enter a score; N for a dense head.
        weights_per_class: that are not zero (NEC).
        contributing: mean number of votes that make up 95 % of the explained score (NCC).
        units_per_class: mean number of different units in the routes of a class.
        accuracy_without: with the `steps` largest votes of each image silenced.
        accuracy_at_5: each class keeps its 5 weights of largest absolute value.
        frozen: the head beside itself, frozen.
    """

    topk: int
    weights_per_class: float
    contributing: float
    units_per_class: float
    accuracy_without: float | None
    accuracy_at_5: float | None
    frozen: FrozenRecord


class VarietyRecord(TypedDict):
    """How different the units of a route are: means over images, as of `explain.variety`. None: not to be known.

    Attributes:
        units: in a route that are looked at, those of the largest votes.
        effective: how many different ones they are worth.
        groups: of near-duplicates among them.
        threshold: correlation of near-duplicates.
        correlation: of two of them.
        correlation_all: of any two units of the network.
        class_independence: of all units in routes.
        contrastiveness: of all units in routes.
    """

    units: float
    effective: float
    groups: float
    threshold: float
    correlation: float | None
    correlation_all: float
    class_independence: float | None
    contrastiveness: float | None


class _Measured(TypedDict, total=False):
    sparsity: SparsityRecord
    variety: VarietyRecord


class FaithfulnessRecord(_Measured):
    """faithfulness.json.

    Attributes:
        images: which images these are, in words.
        count: how many.
        steps: units that are silenced, or kept, at most.
        methods: ways to pick them.
        sparsity: of the head, over all images of the routes.
        variety: of the routes' units; absent where there are too few images to know.
    """

    images: str
    count: int
    steps: int
    methods: list[Method]


# --- chance.json --------------------------------------------------------------------------------------------------


class UnitChance(TypedDict):
    """A unit in chance.json.

    Attributes:
        unit: number from 1.
        score: its IoU in tally.csv.
        chance: share of the null scores, of all units and rounds, that are at or above its own; 0 to 1.
    """

    unit: int
    score: float
    chance: float


class ChanceRecord(TypedDict):
    """chance.json: a layer's scores against those of randomly paired images, the null scores.

    Attributes:
        rounds: of random pairing; each gives a null score per unit.
        null_95: 95th percentile of all null scores, an IoU.
        units_above_95: units whose score is greater than `null_95`.
        units_above_threshold: units whose score is at or above SCORE_THRESHOLD.
        units: all units, in the tally's order.
    """

    rounds: int
    null_95: float
    units_above_95: int
    units_above_threshold: int
    units: list[UnitChance]


# --- what netdissect.compare writes -------------------------------------------------------------------------------


class Detectors(TypedDict):
    """The units of a tally that reach the threshold, of one category of their best labels.

    Attributes:
        interpretable: how many.
        detectors: distinct labels among theirs.
    """

    interpretable: int
    detectors: int


class TallyRecord(TypedDict):
    """One of the tallies that are compared.

    Attributes:
        tally: the file, as it was named.
        units: of the layer.
        interpretable: units whose best IoU is at or above the threshold.
        detectors: distinct labels among theirs.
        mean_score: of the best IoUs of all units.
        categories: by name, in the tally's order.
    """

    tally: str
    units: int
    interpretable: int
    detectors: int
    mean_score: float
    categories: dict[str, Detectors]


class ComparisonRecord(TypedDict):
    """Tallies side by side.

    Attributes:
        threshold: IoU from which a unit is interpretable.
        categories: whose labels competed; null: all of each tally.
        tallies: in the order in which they were named.
    """

    threshold: float
    categories: list[str] | None
    tallies: list[TallyRecord]
