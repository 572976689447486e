"""Data: the transforms and loaders of image-folder trees and Fashion-MNIST, and the embedded scenes."""
