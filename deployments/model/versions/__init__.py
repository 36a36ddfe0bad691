"""The versions of a model: found, loaded, serving, idle, retired.

`versions` follows the source, `loader` brings one version up, `loaded` is what does not change
with traffic, `serving` answers batches, `promotion` has static compilations prove themselves. May
import everything below it in the model.
"""
