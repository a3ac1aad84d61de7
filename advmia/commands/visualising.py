"""The command of gradVisual.py: Grad-CAM maps of a network, on clean and on adversarial images."""

from __future__ import annotations

import argparse

from advmia.attacks import ATTACKS, stream_scope
from advmia.attacks.inference import compile_copies, plain_kernels
from advmia.checkpoints.best import read_training_of
from advmia.checkpoints.weights import load_model
from advmia.commands.inputs import Inputs, check_imported, check_normalization
from advmia.data.loading import EvaluationLoader
from advmia.data.readers import count_listed_classes, read_samples
from advmia.evaluation.origin import check_dataset, difference
from advmia.gradcam.draw import MapFolder, MappedNetwork, View, draw_maps
from advmia.gradcam.maps import find_layer
from advmia.models import MODELS
from advmia.runtime import machine
from advmia.runtime.files import write_lock
from advmia.runtime.rng import GENERATOR
from advmia.runtime.terminal import say
from advmia.tasks import Task


def visualise(task: Task, args: argparse.Namespace) -> None:
    """Draws Grad-CAM of each image, clean and attacked: JPEGs, a contact sheet and a CSV in --saveDir."""
    inputs = Inputs.of(args, args.model)
    spec, precision = inputs.spec, inputs.precision
    loaded = load_model(args.model, args.weight, spec, classes=count_listed_classes(spec, args.dataRoot))
    training = read_training_of(args.weight, loaded.sha256).settings
    check_imported(args.model, loaded.model, loaded.classes, spec.size)
    check_dataset(args.weight, training, spec, is_meant=args.otherDataset)
    check_normalization(args.weight, training, args)
    layer = find_layer(loaded.model, args.camLayer or MODELS[args.model].cam_layer)
    data = inputs.load_images(read_samples(spec, args.dataRoot, "test", classes=loaded.classes))
    if training and difference(training, data):
        say(f"warning: {args.weight} was {difference(training, data)}")
    run = {
        "weight_sha256": loaded.sha256,
        "data": data.facts,
        "precision": precision.name,
        "generator": GENERATOR,
        **{name: getattr(args, name) for name in ("imgSize", "seed", "overlayOn")},
        **{name: list(dict.fromkeys(getattr(args, name))) for name in ("attacks", "epsilons")},
        # Records of earlier versions do not have these.
        **({"mapOf": args.mapOf} if args.mapOf != "true" else {}),
        **{name: getattr(args, name) for name in ("camLayer", "normalize") if getattr(args, name) is not None},
        **spec.recorded,
    }
    with write_lock(args.saveDir / "gradVisual"):
        folder = MapFolder(args.saveDir, run)
        if folder.is_finished:
            print(f"{args.saveDir} holds these maps already; delete {folder.record_path} to draw them again")
            return
        views = [View("clean", 0.0, None, ())]
        for name in dict.fromkeys(args.attacks):
            for grey_eps in dict.fromkeys(args.epsilons):
                attack = ATTACKS[name].build(ATTACKS[name].budget(grey_eps), task.attacks[name])
                views.append(View(name, grey_eps, attack, stream_scope(args.seed, name, grey_eps)))
        model = machine.on_device(loaded.model, inputs.device)
        if args.compile:
            compile_copies(model)
        if args.kernels == "plain":
            plain_kernels(model)
        loader = EvaluationLoader(data, args.bs, inputs.device)
        network = MappedNetwork(model, layer, precision, of_predicted=args.mapOf == "predicted")
        maps = draw_maps(network, loader, views, folder, on_clean=args.overlayOn == "clean")
    pictures = f"{len(maps)} maps of {len(data)} images, the contact sheet gradVisual.png and gradVisual.csv"
    print(f"{pictures} in {args.saveDir}")
    empty = sum(record["empty"] == "yes" for record in maps)
    if empty:
        print(f"{empty} maps are empty: nothing in the image supports the class that they explain")
