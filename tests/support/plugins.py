"""Plug-ins that are right, and plug-ins that are wrong, as files."""

SHIFT = '''\
"""z ← z + b, b shared by all images."""

from nfstudy import FlowFamily, Record, Positive


class ShiftSettings(Record):
    """Its scale."""

    shift_scale: Positive = 1.0


def implementation():
    import torch
    from nfstudy.flows.base import Flow

    class Shift(Flow):
        def __init__(self, latent, length, features, shift_scale):
            super().__init__(latent, length, features)
            self.b, self.scale = torch.nn.Parameter(torch.zeros(length, latent)), shift_scale

        def initialise(self, generator):
            torch.nn.init.zeros_(self.b)

        def parameters_from(self, features):
            return (self.scale * self.b.sum(0),)

        def forward(self, z, parameters):
            return z + parameters[0], z.new_zeros(z.shape[:-1])

        def inverse(self, z, parameters):
            return z - parameters[0]

    return Shift


SHIFT = FlowFamily(name="shift", implementation=implementation, settings=ShiftSettings)
'''

WRONG = {
    "log-determinant": (
        SHIFT.replace(
            "z + parameters[0], z.new_zeros(z.shape[:-1])", "z * 2 + parameters[0], z.new_zeros(z.shape[:-1])"
        ),
        r"flow shift with D = 1, K = 1, .*log-determinant: got 0 nats, and the Jacobian's is 0\.693",
    ),
    "shape": (
        SHIFT.replace("z.new_zeros(z.shape[:-1])", "z.new_zeros(z.shape)"),
        r"log-determinants \(2, 3, 1\); expected: \(2, 3, 1\) and \(2, 3\)",
    ),
    "inverse": (SHIFT.replace("z - parameters[0]", "z"), r"inverse: error in z_0 of"),
    "gradient": (SHIFT.replace("self.b.sum(0),)", "self.b.detach().sum(0),)"), r"gradient of b: none"),
    "not a number": (SHIFT.replace("return z + parameters[0]", "return z / 0"), "non-finite numbers"),
    "mixed images": (
        SHIFT.replace("return z + parameters[0]", "return z + z.flip(-2) / 9"),
        "sample 0 of image 0 depends on others",
    ),
    "unrepeatable": (
        SHIFT.replace("torch.nn.init.zeros_(self.b)", "torch.nn.init.normal_(self.b)"),
        "initialise is not reproducible: it draws from torch's own generator",
    ),
    "a forgotten weight": (
        SHIFT.replace(
            "(latent, length, features)\n",
            "(latent, length, features)\n            self.lin = torch.nn.Linear(1, latent)\n",
        ).replace("self.b.sum(0),)", "self.b.sum(0) + self.lin.bias,)"),
        r"initialise is not reproducible: lin.weight of another chain differs; expected: every weight set by `init",
    ),
    "a seed of its own": (
        SHIFT.replace(
            "torch.nn.init.zeros_(self.b)", "torch.manual_seed(0)\n            torch.nn.init.normal_(self.b)"
        ),
        "initialise is not reproducible: it draws from torch's own generator",
    ),
    "noise": (
        SHIFT.replace("return z + parameters[0]", "return z + parameters[0] + torch.randn_like(z)").replace(
            "settings=ShiftSettings)", "settings=ShiftSettings, inverse=False)"
        ),
        "other numbers of the same z_0 and features; expected: the same, without draws",
    ),
    "its input": (
        SHIFT.replace("return z + parameters[0]", "z.data.add_(1)\n            return z + parameters[0]"),
        "changes its z_0",
    ),
    "other numbers at rest": (
        SHIFT.replace("z.new_zeros(z.shape[:-1])", "z.new_full(z.shape[:-1], 0.0 if self.training else 1.0)"),
        r"eval\(\): gives other numbers than `forward` in training",
    ),
    "other numbers of many samples": (
        SHIFT.replace(
            "        def inverse(",
            "        def for_samples(self, parameters):\n"
            "            return lambda z: (z + parameters[0], z.new_ones(z.shape[:-1]))\n\n"
            "        def inverse(",
        ),
        "for_samples: gives other numbers than `forward` in training",
    ),
    "double precision": (
        SHIFT.replace("z.new_zeros(z.shape[:-1])", "torch.zeros(z.shape[:-1], dtype=torch.float64)"),
        "float32: got torch.float64 of float32 z_0",
    ),
    "an exit": (
        SHIFT.replace("super().__init__", "raise SystemExit(0)\n            super().__init__"),
        "SystemExit: 0",
    ),
    "an exception": (SHIFT.replace("return z + parameters[0]", "return {}['b']"), "KeyError: 'b'"),
    "no class": (
        SHIFT.replace("    return Shift\n", "    import not_there\n"),
        "flow shift: cannot be loaded: No module",
    ),
}
"""What is wrong -> the file, and what is said of it."""
