import pytest

from edcompress.core.recipe.weights_name import WeightsName
from edcompress.networks.sources import torchvision as source
from edcompress.networks.usual_images import usual_images


@pytest.mark.parametrize(("arch", "mean"), [("googlenet", (0.5,)), ("resnet18", (0.485, 0.456, 0.406))])
def test_images_are_those_of_weights_by_name(arch: str, mean: tuple[float, ...]) -> None:
    """torchvision's GoogLeNet normalises once more inside the network, which is built without that here."""
    usual = usual_images(arch)
    assert usual is not None
    assert usual.mean == mean
    offered = source.find(WeightsName("torchvision", f"torchvision:{arch}@IMAGENET1K_V1")).offer.values["data"]
    assert usual._asdict() == offered
