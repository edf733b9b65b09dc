"""Text and samples: reading, sentences, facts, selection, and the samples that a stage trains on."""
