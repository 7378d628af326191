"""Training libraries whose loops are recorded: one line before ``train()`` or ``fit()``.

:mod:`pkbook.integrations.transformers` and :mod:`pkbook.integrations.lightning`; nothing of these
libraries is imported before one of the two modules is.
"""
