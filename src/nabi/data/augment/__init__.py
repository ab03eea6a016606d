"""Augmentation: training pictures changed at random in ways that leave their class alone.

Every number that is drawn for a picture follows from a key of the picture's own, and the key from the epoch's key and
the picture's position in the data set. So it makes no difference in which order pictures come, which share a batch or
how many threads work: the same picture in the same epoch is changed in the same way, to the bit. A run that resumes, a
run on another number of cores, and a look at one single picture all see what the training saw.

::

    "flip,crop:4,cutout:8,mixup:0.2"   parse  →  Pipeline         batch(pipeline, images, positions, epoch_key)
    flip, crop, ...                    the augmentations          keys  →  uniform, integers: what they draw from
    compose(...)                       of these and of any function (images, keys) -> images

Pictures are uint8 of shape (N, H, W, C), C being 1 or 3, and stay so; what is given is never changed in place. A new
augmentation is one function::

    @augmentation("invert", probability=(0, 1))
    def invert(images, keys, probability=0.5):
        chosen = uniform(keys, 1)[0] < probability
        return np.where(chosen[:, None, None, None], 255 - images, images)

Source: Krizhevsky, Sutskever and Hinton, "ImageNet Classification with Deep Convolutional Neural Networks" (NIPS 2012),
section 4.1, for flips, crops and changes of colour; the others are named where they are.

Inside, each file imports only from those above it::

    draws           keys, and what is drawn from them       pictures        what counts as pictures
    blocks          many pictures, cut for the threads
    declaration     what an augmentation is                 interpolation   what is seen between pixels
    geometry, colour, mixup     augmentations               hiding          one more, with the colours of colour
    pipeline        one after another, in code or as text
    step            the pictures for one step of training
"""

from nabi.data.augment.declaration import AUGMENTATIONS, Augmentation, Change, Limits, augmentation
from nabi.data.augment.draws import Keys, integers, keys, uniform
from nabi.data.augment.pictures import Pictures

# People are shown the augmentations in the order in which these files declare them.
# isort: off
from nabi.data.augment.geometry import crop, flip, resized_crop, rotation
from nabi.data.augment.colour import color_jitter
from nabi.data.augment.hiding import cutout
from nabi.data.augment.mixup import Mixup
# isort: on

from nabi.data.augment.pipeline import Pipeline, compose, parse
from nabi.data.augment.step import batch

__all__ = [
    "AUGMENTATIONS",
    "Augmentation",
    "Change",
    "Keys",
    "Limits",
    "Mixup",
    "Pictures",
    "Pipeline",
    "augmentation",
    "batch",
    "color_jitter",
    "compose",
    "crop",
    "cutout",
    "flip",
    "integers",
    "keys",
    "parse",
    "resized_crop",
    "rotation",
    "uniform",
]
