"""Prefect above DVC: brings a study's stages up to date, in parallel, on a schedule, from a page."""
