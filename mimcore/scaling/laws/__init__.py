"""Laws of scaling, one file each: ``class Law`` with ``name``, ``formula``, ``parameters``, ``fit`` and ``predict``."""
