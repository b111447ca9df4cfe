"""Generative adversarial network: Goodfellow et al. 2014, in the form of Radford et al. 2016."""
