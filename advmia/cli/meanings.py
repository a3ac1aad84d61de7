"""What the names that flags take mean, as --help lists them. A name without a meaning here is listed alone."""

from __future__ import annotations

DATASETS = {
    "mesidorBin": "fundus photographs (Messidor): diabetic retinopathy or none",
    "mesidorMulti": "fundus photographs: grade of diabetic retinopathy",
    "melBin": "skin lesions (ISIC 2017): melanoma or seborrheic keratosis, or neither",
    "melMulti": "skin lesions: melanoma, seborrheic keratosis, or neither",
    "xrayBin": "chest X-rays (ChestX-ray14): any finding or none",
    "mel": "skin lesions (ISIC 2017): masks of the lesion",
    "xray": "chest X-rays (COVID-19 Radiography Database): masks of the lungs",
}
METHODS = {
    "nat": "natural training, on clean images",
    "pgdat": "PGD adversarial training (PGD-AT), on adversarial images",
    "trades": "TRADES: loss on clean images, plus how much attacks change the outputs",
    "mart": "MART: PGD-AT that weights misclassified images more",
    "hat": "helper-based adversarial training (HAT); needs --helperModel and --helperWeight",
    "mpadvt": "MPAdvT: half of the batches attacked, with random eps and steps, the others clean",
    "maadvt": "MAAdvT: MART with a random number of steps",
}
MODELS = {
    "res18": "ResNet-18",
    "mv2": "MobileNetV2",
    "chexnet": "DenseNet-121, as in CheXNet",
    "wrn": "WideResNet-28-10; a step needs about 9 times the arithmetic of res18",
    "unet": "U-Net",
    "segnet": "SegNet",
}
DOWNLOADS = {
    "folder": "your own images: a folder for each class, or any folder with --labels",
    "mesidor": "Messidor: images and the 12 annotation sheets in one folder",
    "isic2017": "ISIC 2017: images, ground truth of parts 1 and 3",
    "chestxray14": "NIH ChestX-ray14: 12 folders of images and their tables",
    "covid19radiography": "COVID-19 Radiography Database",
    "medmnist": "an .npz archive of MedMNIST: RetinaMNIST, DermaMNIST, ChestMNIST, PneumoniaMNIST",
    "medsegbench": "an .npz archive of MedSegBench: covid19radio, isic2018",
}
FOLDERS = {
    "mesidor": "fundus photographs: mesidorBin, mesidorMulti",
    "mel2017": "skin lesions and their masks: melBin, melMulti, mel",
    "xray": "chest X-rays: xrayBin and the 14 findings",
    "covidSeg": "chest X-rays with masks of the lungs: xray (segmentation)",
}
KERNELS = {
    "auto": "CUDA graphs, and operators that do the work of several, where they work",
    "plain": "torch's own operators, one by one",
}
