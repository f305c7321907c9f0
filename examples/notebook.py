# ---
# jupyter:
#   jupytext:
#     text_representation:
#       format_name: percent
# ---

# %% [markdown]
# # Search a few notes
#
# Open this file in Jupyter with jupytext, in VS Code as it is, or run it with Python.

# %%
import os

import numpy as np
from ggembed import Embedder

embedder = Embedder(os.environ.get("MODEL"))
embedder

# %% [markdown]
# The rows of all notes; the bar is tqdm's where it is installed.

# %%
notes = [
    "The cat sleeps on the warm oven.",
    "Plants make sugar from light and water.",
    "The parliament voted on the new budget.",
    "Bread rises because yeast makes gas.",
]
rows = embedder.encode_document(notes, show_progress_bar=True)
rows.shape

# %% [markdown]
# A notebook has a running event loop, so `await` works in a cell as well:
# `await embedder.aencode_query(question)`.

# %%
question = "how do plants get energy?"
scores = embedder.similarity(embedder.encode_query(question), rows)[0]
for i in np.argsort(-scores):
    print(f"{scores[i]:.2f}  {notes[i]}")

# %%
stats = embedder.stats()
print(f"{stats.n_texts} texts, {stats.n_tokens} tokens")
embedder.close()
