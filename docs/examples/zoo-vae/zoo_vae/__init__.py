"""Variational autoencoder: Kingma and Welling 2014."""
