"""Settings of Network Dissection: edit the values, or override any of them as a flag of main.py in lower case
(`python3 main.py --model_file X --output_folder Y`). Relative paths written here are relative to this file's folder,
relative paths on the command line to the current one.
"""  # noqa: D205

# --- what is dissected
MODEL = None  # resnet18, resnet18_fc_ma, ..., a torchvision name, or 'package.module:factory'; None: from MODEL_FILE
MODEL_FILE = "../snapshot/shipped/resnet18_d5a_mini_places.pth"  # a snapshot or state dict; 'none': random weights
TOPK = None  # K of a DKA head; None: from MODEL_FILE
DATASET = None  # data set the model was trained on, for the name of the output folder; None: from MODEL_FILE
NUM_CLASSES = None  # None: from MODEL_FILE
FEATURE_NAMES = ["layer4"]  # dotted layer names, as in model.named_modules()

# --- on which concepts
DATA_DIRECTORY = None  # Broden-format folder; None: dataset/broden1_224 if it is there, else ../data/mini_broden
INDEX_FILE = "index.csv"
CATEGORIES = None  # for example ['object', 'part']; None: all of category.csv

# --- how
QUANTILE = 0.005  # share of its activations that a unit's threshold lets through
QUANTILE_FILE = None  # a quantile.npy (U,) to use instead of computing the thresholds
IOU_MODE = "lite"  # 'lite': the numbers of the authors' tally; 'original': those of Bau et al. 2017
PREPROCESS = "netdissect"  # 'netdissect': mean 124.7, 118.7, 109.5, scale 1 / (255 * 0.224); 'imagenet': torchvision's
CHANCE_ROUNDS = 1  # tallies of randomly paired masks and labels, for the chance level; 0: none

# --- what is shown
OUTPUT_FOLDER = None  # None: ../result/pytorch_{arch}_{mark}_{dataset}/netdissect
SCORE_THRESHOLD = 0.04  # IoU from which a unit counts as interpretable
SEG_THRESHOLD = 0.04  # IoU from which the report lists a unit's best concepts of further categories
TOPN = 10  # pictures shown per unit

# --- on which machine
GPU = "auto"  # True, False or 'auto'
WORKERS = 2  # processes that read pictures and label maps
BATCH_SIZE = 64  # pictures at a time through the network
TALLY_BATCH_SIZE = 16  # pictures at a time whose labels are read
CLEAN = True  # at the end, remove the cache that makes a next run with other labels or another IOU_MODE fast
TEST_MODE = False  # dissect a sample of 64 pictures only
