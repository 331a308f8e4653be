import org.jetbrains.kotlin.gradle.dsl.JvmTarget

// The same host on a desktop: gradle :cli:run --args="BUNDLE PROMPT"
plugins {
    alias(libs.plugins.kotlin.jvm)
    application
}

application {
    mainClass.set("wuerstchen.cli.MainKt")
}

java {
    sourceCompatibility = JavaVersion.VERSION_11
    targetCompatibility = JavaVersion.VERSION_11
}

kotlin {
    compilerOptions {
        jvmTarget.set(JvmTarget.JVM_11)
    }
}

tasks.named<JavaExec>("run") {
    environment("ORT_DISABLE_TELEMETRY", "1")
}

dependencies {
    implementation(project(":wuerstchen"))
    implementation(libs.onnxruntime)
}
