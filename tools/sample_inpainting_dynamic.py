"""The same function as `videopoet sample inpainting-dynamic`, as a script."""

from videopoet.commands.sample import script

if __name__ == "__main__":
    script("inpainting-dynamic")
