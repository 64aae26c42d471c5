"""What 8-bit transfers cost in accuracy: the command ``pyshmem accuracy``.

    transfer.py    the ways that rows can travel: as they are, bfloat16, FP8, INT8 with several groups
    model.py       a real language model whose feed-forward layers are reached by such transfers: perplexity
    synthetic.py   rows with known distributions, outlier channels among them
    training.py    two models trained on several PEs, gradients all-reduced in full precision and in INT8
    show.py        tables and plot
    command.py     the command

It needs ``pip install 'sushmem[accuracy]'``: PyTorch, transformers and the packages that hold the model.
"""
