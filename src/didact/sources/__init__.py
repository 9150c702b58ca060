"""Sources: from a recipe's lines to tasks with rows. The only part of the data side that knows files and hubs.

Settings name a column as the file calls it; templates see it under its new name. A row is filtered by `where`, its
labels are turned from numbers into names, and then it is renamed.
"""

from didact.sources.config import (
    DigitsSource,
    FileSource,
    HubSource,
    PictureWorldSource,
    Source,
    StarterSource,
    SuperNISource,
)
from didact.sources.open import open_source
from didact.sources.task import Row, Task

__all__ = ["DigitsSource", "FileSource", "HubSource", "PictureWorldSource", "Row", "Source"]
__all__ += ["StarterSource", "SuperNISource", "Task", "open_source"]
