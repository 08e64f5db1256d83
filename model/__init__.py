"""The network: BERT as Devlin et al. 2018 (arXiv 1810.04805) published it, computed on unpadded tokens; a few named
choices beside the published ones.

Where to look:

- `model.config`     the shape of a network, its presets and its checks; loads no torch
- `model.bert`       the network, and `BertForPretraining`, which training runs
- `model.attention`  self-attention over sequences laid end to end
- `model.rotation`   queries and keys turned by their positions, where the configuration says so
- `model.feed_forward` a layer's second half, plain or gated
- `model.heads`      the two objectives' heads: masked words (MLM) and next sentence (NSP)
- `model.counts`     parameters, and floating-point operations of a training step
- `model.hf_families` which classes of Hugging Face `transformers` compute which of our networks
- `model.hf_names`   the same weights and configuration under those classes' names

What always holds: nothing here imports `pipeline`, DeepSpeed or `transformers`; importing does nothing.
"""
