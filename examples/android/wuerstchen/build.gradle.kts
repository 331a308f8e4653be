import org.jetbrains.kotlin.gradle.dsl.JvmTarget

// Plain Kotlin: no class of Android's. Whoever uses it brings the ONNX Runtime of its platform.
plugins {
    alias(libs.plugins.kotlin.jvm)
}

java {
    sourceCompatibility = JavaVersion.VERSION_11
    targetCompatibility = JavaVersion.VERSION_11
}

kotlin {
    compilerOptions {
        jvmTarget.set(JvmTarget.JVM_11)
        allWarningsAsErrors.set(true)
    }
}

dependencies {
    compileOnly(libs.onnxruntime)
    testImplementation(libs.junit)
    testImplementation(libs.kotlin.test)
    testImplementation(libs.onnxruntime)
}
