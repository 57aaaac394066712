"""The setting that planar and radial flows share. Free of torch."""

from nfstudy.core.fields import Record


class ConstraintSettings(Record):
    """Whether Appendix A's reparametrisation is used."""

    constraint: bool = True
    """û of planar and β̂ of radial steps, which make every step invertible."""
