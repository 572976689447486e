"""Values that users may want to read or change: data sets, schedules and default paths.

Nothing but values: importing this module reads no file and has no side effects. Paths are relative to the repository.
"""

from easydict import EasyDict

DATA_ROOT = "data"
SNAPSHOT_ROOT = "snapshot"
RESULT_ROOT = "result"
OWN_IMAGES = "own_images"  # folder in it for reports of a user's own images: they never replace a run's

ARCH = "resnet18_fc_ma"  # ResNet-18 with a DKA head
ARCHITECTURES = (
    "resnet18_fc_ma, resnet50_fc_ma or another classifier of torchvision, timm:<model> or package.module:factory, "
    "with _fc_ma for a DKA head, without it for a dense one"
)
MARK = "t5"  # K = 5; with ResNet-18 this is the paper's "ResNet-d5a"
KEEP = 10  # snapshots of a run that are kept, beside the best

# What `python3 demo.py` explains before anything has been trained.
SHIPPED_SNAPSHOT = "snapshot/shipped/resnet18_d5a_mini_places.pth"
SHIPPED_TALLY = "snapshot/shipped/tally.csv"
# What explains photographs, `python3 demo.py --image my.jpg`; pip brings the weights that this slim snapshot lacks.
SHIPPED_PHOTO_SNAPSHOT = "snapshot/shipped/photos/efficientnet_lite0_d5a_tiny_imagenet.pth"
SHIPPED_PHOTO_TALLY = "snapshot/shipped/photos/tally.csv"

# ImageNet's channel means and standard deviations (RGB, images scaled to 0..1), as in the paper.
MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)

# The paper's schedule (section 5): SGD with momentum, lr divided by 10 every third of the run.
PAPER = dict(epochs=90, batch_size=256, lr=0.1, schedule="step", momentum=0.9, weight_decay=1e-4, small_share=0)
# A short schedule for small data sets: one cycle of linear warm-up and cosine decay.
SHORT = dict(epochs=5, batch_size=64, lr=0.05, schedule="one_cycle", momentum=0.9, weight_decay=5e-4, small_share=0)

# size: side of the network's square input, pixels; resize: shorter side before the centre crop of validation, pixels;
# crop_scale: smallest and largest share of the image's area in a random training crop; small_share: share of epochs,
# from the first on, trained at half the size for a quarter of the cost (progressive resizing); frozen: what is
# different where --freeze keeps a pretrained network's layers, which want images of about the size that they know.
DATASETS = EasyDict(
    places365=dict(folder="places365_standard", num_classes=365, size=224, resize=256, crop_scale=(0.08, 1.0), **PAPER),
    imagenet=dict(folder="imagenet", num_classes=1000, size=224, resize=256, crop_scale=(0.08, 1.0), **PAPER),
    mini_places=dict(
        folder="mini_places",
        num_classes=16,
        size=224,
        resize=224,
        crop_scale=(0.5, 1.0),
        **{**SHORT, "epochs": 24, "batch_size": 32, "lr": 0.03, "small_share": 2 / 3},
    ),
    fashion_mnist=dict(folder="fashion_mnist", num_classes=10, size=64, resize=64, crop_scale=(0.7, 1.0), **SHORT),
    tiny_imagenet=dict(  # with torchvision's stem: a smaller one was no better (BENCHMARKS.md)
        folder="tiny-imagenet-200",
        num_classes=200,
        size=64,
        resize=64,
        crop_scale=(0.25, 1.0),
        frozen=dict(size=128, epochs=8),
        **{**SHORT, "epochs": 30, "batch_size": 128, "lr": 0.1},
    ),
)

# Where Debian's package dataset-fashion-mnist installs the four idx files.
FASHION_MNIST_SYSTEM = "/usr/share/datasets/fashion-mnist"

MOST_SIDE = 4096  # of a network's input, pixels; a larger one is a typo, and would exhaust memory
MOST_WORKERS = 1024  # loading processes; a larger number is a typo, and would exhaust memory

EXPLAIN_IMAGES = 15  # images that demo.py explains by default
IMAGE_SIZE = 224  # side of an explained image on the page, pixels, unless the network sees more
MOST_WIDTH = 65_500  # of a JPEG, pixels
MOST_TILES = MOST_WIDTH // IMAGE_SIZE  # images side by side in one JPEG
FIGURE_IMAGES = 4  # images in figure.png, as in the paper's figures
EXPLAIN_TOPN = 5  # votes (activation x weight, one per unit) shown per image
SCORE_THRESHOLD = 0.04  # a unit counts as interpretable at this IoU or above
UNSURE_BELOW = 0.5  # a less probable prediction is called unsure: all other classes together are more probable
