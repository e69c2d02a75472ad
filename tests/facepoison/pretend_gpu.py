"""Run the renderer and what attacks look at on a GPU that is only pretended: devices are followed, nothing is computed.

Torch refuses, as a GPU would, whatever mixes tensors of two devices. Prints the device of each result.
"""

import torch
from tiny import tiny_extractor
from torch._subclasses.fake_tensor import FakeTensorMode

from facepoison.attacks.lowkey import LOWKEY, blur, features, mirrored
from facepoison.attacks.similarity import dssim
from syntheticfaces import draw_nuisance, draw_people, render

people, nuisance = draw_people("pretend", 0, 2, 1), draw_nuisance("pretend", 0, 2, 1, 1)
extractor = tiny_extractor()
torch.Tensor.__bool__ = lambda self: True  # the renderer asks whether anybody wears glasses; here somebody does

with FakeTensorMode(allow_non_fake_inputs=True):
    pictures = render(people.to("cuda"), nuisance.to("cuda"), 64)
    clean = torch.rand(2, 3, 24, 24, device="cuda")
    embeddings = features(extractor.to("cuda"), mirrored(clean, blur(clean, LOWKEY)), len(clean))
    print(pictures.device.type, embeddings.device.type, dssim(clean, clean).device.type)
