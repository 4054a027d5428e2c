"""What a trained model is good for: text, answers to questions, and how fast it gives them.

Reads `model/` folders as `stages.train.export` writes them. The trainer's package is loaded before torch, for the
threads' settings that it makes: its modules know nothing of this package.
"""

import stages.train  # noqa: F401 - before torch
