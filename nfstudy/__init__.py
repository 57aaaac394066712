"""nfstudy: tracked, repeatable studies of *Variational Inference with Normalizing Flows* (Rezende & Mohamed, 2015)."""

__version__ = "0.1.0"
