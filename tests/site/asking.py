"""A small site whose one walkthrough asks what a page can ask; built with the course's hooks, style and scripts."""

import shutil
from pathlib import Path

ROOT = Path(__file__).parents[2]
CONFIG = f"""
site_name: Test
strict: true
use_directory_urls: false
exclude_docs: javascripts/questions/
theme:
  name: material
  font: false
  features: [navigation.sections, navigation.footer]
  palette:
    - {{media: "(prefers-color-scheme: light)", scheme: default, primary: indigo}}
    - {{media: "(prefers-color-scheme: dark)", scheme: slate, primary: indigo}}
extra_css: [stylesheets/extra.css, stylesheets/questions.css]
extra_javascript: [{{path: javascripts/questions.js, defer: true}}]
hooks: [{ROOT}/docs/_hooks/course.py]
plugins:
  - mkdocs-jupyter: {{include: ["walkthroughs/*.py"], ignore: ["*.md"], include_source: true}}
markdown_extensions:
  - admonition
  - attr_list
  - md_in_html
  - toc: {{permalink: true}}
  - pymdownx.arithmatex: {{generic: true}}
  - pymdownx.details
  - pymdownx.highlight
  - pymdownx.superfences
validation: {{anchors: warn, unrecognized_links: warn}}
nav:
  - Home: index.md
  - Course: [walkthroughs/01_asks.py, walkthroughs/02_asks.py]
"""
PAGE = """\
# %% [markdown]
# ---
# description: A test.
# ---
# # 1. A page that asks
#
# Does a convolution know what it does before anybody has trained it? You say first.

# %%
import matplotlib.pyplot as plt

import lab

# %% [markdown]
# ## Before training
#
# ```predict
# id: conv1-untrained
# question: How large is `conv1`'s error $E(t)$ *before* training, as on [Home](../index.md)?
# choices:
#   - exactly $0$, up to rounding
#   - about 0.3
#   - "about 1: as for an unrelated digit"
# ```

# %%
#| code-fold: true
#| code-title: "Draw a line"
#| alt: A line from lower left to upper right.
#| caption: A line that goes up, as $x$ does.
figure, axes = plt.subplots(figsize=(4, 2))
axes.plot([0, 1])

# %%
#| code-fold: true
#| code-title: MNIST digits, counted
worst = 3e-8

# %%
print("measured:", worst)

# %% [markdown]
# Between the cells stands some prose with $T_t\\,x$.

# %% [markdown]
# ```observed
# id: conv1-untrained
# right: "{{ 1 if worst < 1e-6 else 2 }}"
# value: "{{ worst:.0e}}"
# reason: |
#   A convolution uses the same weights everywhere, so $f(T_t\\,x) = T_t\\,f(x)$ holds for *any* weights.
#
#   *About 1* is what you get for another digit. See [Home](../index.md).
# ```

# %% [markdown]
# ## After training
#
# Now a number.

# %% [markdown]
# ```predict
# id: accuracy
# question: How many of the test digits are recognised after three epochs?
# number: {unit: "%", places: 1}
# ```

# %%
accuracy = 92.8

# %% [markdown]
# ```observed
# id: accuracy
# value: "{{ accuracy:.1f }}"
# within: 5
# reason: Three epochs are enough for a linear classifier.
# ```
#
# ```predict
# id: share
# question: Which share of the weights is in `fc1`?
# number:
# ```
#
# ```observed
# id: share
# value: 0.3
# within: 0.05
# reason: Count them.
# ```

# %%
control = lab.Control("null", 1.0, ">=", 0.5)
lab.check([lab.Claim("nothing", "exact", 0.0, 0.0, (control,), kind="exact")], seeds=[7])

# %% [markdown]
# ## Questions
#
# ```quiz
# - question: Which of these layers is equivariant, whatever its weights $w$?
#   choices:
#     - {text: "a linear layer on the flattened map", why: "it has other weights at every place."}
#     - {text: "a convolution of stride 1", right: true, why: "its weights are the same everywhere."}
#     - {text: "a convolution of stride 2", why: "only where 2 divides the shift $t$."}
# - question: "What does sorting not see: values or places?"
#   choices:
#     - {text: values, why: "it compares just those."}
#     - {text: places, right: true}
# ```
"""


def write_project(folder: Path) -> Path:
    """The sources of the site, ready to be built; both walkthroughs ask the same."""
    pages = folder / "docs" / "walkthroughs"
    pages.mkdir(parents=True)
    (folder / "mkdocs.yml").write_text(CONFIG)
    (folder / "docs" / "index.md").write_text("# Home\n\nGood.\n")
    (pages / "01_asks.py").write_text(PAGE)
    (pages / "02_asks.py").write_text(PAGE.replace("# # 1. A page", "# # 2. Another page"))
    for part in ("stylesheets", "javascripts/questions"):
        shutil.copytree(ROOT / "docs" / part, folder / "docs" / part)
    return folder
