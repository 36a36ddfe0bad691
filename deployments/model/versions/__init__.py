"""The versions of a model, from discovery to retirement.

`versions` follows the source, `loader` loads one version, `loaded` holds the state that does not
change with traffic, `serving` answers batches, `promotion` compares compilations, `idle` unloads a
version that gets no requests. May import everything below it in the model.
"""
