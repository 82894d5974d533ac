"""Indexes stills with DIALS: `python dials_script.py INPUT OUTPUT`, run by the Python that DIALS is installed in.

A script of its own that imports nothing of sfxlab. INPUT is JSON: parameters of dials.ssx_index, methods, and for each
frame its wavelength (Å), distance, pixel (mm) and half width (pixels) of a flat panel across the beam, and x, y
(pixels from its corner), intensity and sigma of its spots. To OUTPUT goes one line of JSON a frame, as soon as it is
known: bases are columns a*, b*, c* in 1/Å in the frame that the panel is described in, z along the beam.
"""

# mypy: ignore-errors

import contextlib
import json
import logging
import os
import random
import sys


def main():
    """Index all frames of the input."""
    if sys.argv[1:] == ["--version"]:
        from dials.util.version import dials_version

        print(dials_version())
        return
    with open(sys.argv[1]) as file:
        task = json.load(file)
    logging.disable(logging.CRITICAL)
    with open(sys.argv[2], "w") as output:
        for number, frame in enumerate(task["frames"]):
            answer = {"frame": number}
            try:
                # Some of DIALS prints, and a line a candidate is not what went wrong in the end.
                with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere):
                    answer["bases"] = indexed(frame, task["parameters"], task["methods"])
            except Exception as error:  # noqa: BLE001
                answer["problem"] = f"{type(error).__name__}: {error}"
            output.write(json.dumps(answer) + "\n")
            output.flush()


def indexed(frame, parameters, methods):
    """Bases of the lattices that the first method that finds any finds in a frame."""
    import numpy as np
    from dials.algorithms.indexing.ssx.processing import index_one
    from dials.array_family import flex
    from dials.command_line.ssx_index import phil_scope
    from libtbx import phil

    # So that a frame's lattices do not depend on the frames before it.
    random.seed(0)
    np.random.seed(0)  # noqa: NPY002
    flex.set_random_seed(0)
    wanted = phil_scope.fetch(phil.parse("\n".join(parameters))).extract()
    experiments, _ = index_one(experiment(frame), spots(frame, flex), wanted, methods, 0)
    return [list(found.crystal.get_A()) for found in experiments or ()]


def experiment(frame):
    """The beam and the panel of a frame, in place of its images."""
    from dxtbx.imageset import ImageSet, ImageSetData, MemReader
    from dxtbx.model import Beam, Detector, Experiment

    half, pixel = frame["half"], frame["pixel"]
    detector = Detector()
    panel = detector.add_panel()
    panel.set_local_frame((1, 0, 0), (0, 1, 0), (-half * pixel, -half * pixel, frame["distance"]))
    panel.set_pixel_size((pixel, pixel))
    panel.set_image_size((2 * half, 2 * half))
    beam = Beam()
    beam.set_wavelength(frame["wavelength"])
    beam.set_s0((0, 0, 1 / frame["wavelength"]))
    images = ImageSet(ImageSetData(MemReader([None]), None))
    images.set_beam(beam, 0)
    images.set_detector(detector, 0)
    return Experiment(beam=beam, detector=detector, imageset=images)


def spots(frame, flex):
    """The spots of a frame as a table of strong reflections."""
    n = len(frame["x"])
    x, y = flex.double(frame["x"]), flex.double(frame["y"])
    sigma = flex.double(frame["sigma"])
    table = flex.reflection_table.empty_standard(n)
    table["xyzobs.px.value"] = flex.vec3_double(x, y, flex.double(n, 0.5))
    table["xyzobs.px.variance"] = flex.vec3_double(n, (0.04, 0.04, 0.25))
    table["intensity.sum.value"] = flex.double(frame["intensity"])
    table["intensity.sum.variance"] = sigma * sigma
    corners = [(int(a) - 1, int(b) - 1) for a, b in zip(frame["x"], frame["y"])]  # noqa: B905
    table["bbox"] = flex.int6([(a, a + 3, b, b + 3, 0, 1) for a, b in corners])
    table["panel"] = flex.size_t(n, 0)
    table["id"] = flex.int(n, 0)
    table["imageset_id"] = flex.int(n, 0)
    table.set_flags(flex.bool(n, True), table.flags.strong)
    return table


if __name__ == "__main__":
    main()
