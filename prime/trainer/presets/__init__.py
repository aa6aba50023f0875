"""What runs here without a download: models, their data, and in `jobs` whole jobs. `prime.trainer.catalogue` names them."""
