"""Settings of Network Dissection: edit the values, or override any of them with a flag of main.py in lower case
(`python3 main.py --model_file X --output_folder Y`). Relative paths in this file are relative to its folder, those on
the command line to the current folder.
"""  # noqa: D205

# --- network
MODEL = None  # resnet18_fc_ma, a torchvision name, 'timm:<model>', 'package.module:factory'...; None: from MODEL_FILE
MODEL_FILE = "../snapshot/shipped/resnet18_d5a_mini_places.pth"  # a snapshot or state dict; 'none': random weights
FINETUNE = None  # the file of the weights that a slim snapshot lacks; None: its architecture brings them
TOPK = None  # K of a DKA head; None: from MODEL_FILE
DATASET = None  # data set the model was trained on, which names the output folder; None: from MODEL_FILE
NUM_CLASSES = None  # None: from MODEL_FILE
FEATURE_NAMES = ["layer4"]  # dotted layer names, as in model.named_modules(); None: whose mean is the head's input

# --- concepts
DATA_DIRECTORY = None  # Broden-format folder; None: dataset/broden1_224 if it exists, else ../data/mini_broden
INDEX_FILE = "index.csv"
CATEGORIES = None  # e.g. ['object', 'part']; None: all in category.csv

# --- method
QUANTILE = 0.005  # share of a unit's activations above its threshold
QUANTILE_FILE = None  # a quantile.npy (U,) with thresholds to use instead of computing them
IOU_MODE = "lite"  # 'lite': the numbers of the authors' tally; 'original': those of Bau et al. 2017
PREPROCESS = "netdissect"  # 'netdissect': mean 124.7, 118.7, 109.5, scale 1 / (255 * 0.224); 'imagenet': torchvision's
CHANCE_ROUNDS = 1  # tallies with masks and labels paired at random, to estimate the chance level; 0: none

# --- output
OUTPUT_FOLDER = None  # None: ../result/pytorch_{arch}_{mark}_{dataset}/netdissect
SCORE_THRESHOLD = 0.04  # a unit counts as interpretable at this IoU or above
SEG_THRESHOLD = 0.04  # the report lists a unit's best concepts of other categories at this IoU or above
TOPN = 10  # images shown per unit

# --- machine
GPU = "auto"  # True, False or 'auto'
WORKERS = 2  # processes loading images and label maps
BATCH_SIZE = 64  # images per forward pass
TALLY_BATCH_SIZE = 16  # images per batch of label maps
COMPILE = (
    False  # True: compile the network; 'auto': on the CPU, where enough images follow. Activations then differ by up
)
# to 2e-5 from those of False, and rarely a mask by a pixel: with False a tally like the shipped one comes out the same.
CLEAN = True  # False keeps activations in cache/ so reruns with other labels or IOU_MODE skip the forward pass
TEST_MODE = False  # dissect only a sample of 64 images
