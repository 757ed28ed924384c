"""The stages of the pipeline, one module each, in the order in which a packet meets them."""
